package channel

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
)

// dearmor decodes the text form of OpenPGP data. As in Guix the text must
// begin with the BEGIN line, the checksum is required, and what follows the END
// line is ignored.
func dearmor(text []byte) ([]byte, error) {
	lines := strings.Split(string(text), "\n")
	kind, ok := strings.CutPrefix(strings.TrimRight(lines[0], whiteSpace), "-----BEGIN ")
	kind, ok2 := strings.CutSuffix(kind, "-----")
	if !ok || !ok2 {
		return nil, errors.New("the text does not begin with a BEGIN line")
	}
	lines = lines[1:]
	for len(lines) > 0 && strings.Trim(lines[0], whiteSpace) != "" {
		lines = lines[1:] // headers, up to an empty line
	}
	var body []string
	for _, line := range lines {
		switch line = strings.Trim(line, whiteSpace); line {
		case "":
		case "-----END " + kind + "-----":
			return decodeArmor(body)
		default:
			body = append(body, line)
		}
	}
	return nil, errors.New("the text lacks its END line")
}

const whiteSpace = " \t\r\n\v\f"

func decodeArmor(lines []string) ([]byte, error) {
	if len(lines) == 0 {
		return nil, errors.New("the text has no data")
	}
	last, ok := strings.CutPrefix(lines[len(lines)-1], "=")
	if !ok {
		return nil, errors.New("the checksum is missing")
	}
	want, err := base64.StdEncoding.DecodeString(last)
	if err != nil {
		return nil, errors.New("the checksum is malformed")
	}
	data, err := base64.StdEncoding.DecodeString(strings.Join(lines[:len(lines)-1], ""))
	if err != nil {
		return nil, errors.New("the data is not base64")
	}
	sum := crc24(data)
	if !bytes.Equal(want, []byte{byte(sum >> 16), byte(sum >> 8), byte(sum)}) {
		return nil, errors.New("the checksum is wrong")
	}
	return data, nil
}

// crc24 is the checksum of RFC 4880, section 6.1, eight bits at a time.
func crc24(data []byte) uint32 {
	sum := uint32(0xb704ce)
	for _, c := range data {
		sum = crc24Table[byte(sum>>16)^c] ^ sum<<8
	}
	return sum & 0xffffff
}

var crc24Table = func() (table [256]uint32) {
	for i := range table {
		r := uint32(i) << 16
		for range 8 {
			if r <<= 1; r&0x1000000 != 0 {
				r ^= 0x1864cfb
			}
		}
		table[i] = r & 0xffffff
	}
	return table
}()
