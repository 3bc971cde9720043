package substitute

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A NarInfo is what a server says about a store item: what its archive hashes
// to, and where to get it. Only the part above the signature is signed.
//
// The fields are a reading of the text, and changing them does not change it.
type NarInfo struct {
	Info
	URLs []NarURL
	// Signature is nil when there is none, or none that can be read;
	// [NarInfo.Verify] says which.
	Signature *Signature

	text     []byte // all of it
	signed   []byte // what the signature is about, nil for none
	sigError error  // why Signature is nil

	tag string // names the text in HTTP
}

// A NarURL is one of the places of an item's archive.
type NarURL struct {
	URL         string // absolute, or relative to the server's own
	Compression string // "gzip", "lzip", "zstd", "none", …
	FileSize    int64  // bytes to download, or -1 when not known
}

const signatureField = "Signature:"

// ParseNarInfo reads a narinfo as Guix does: of repeated fields the first
// counts, unknown ones are skipped, the URL, Compression and FileSize lines are
// matched by their order, as many as there are of each. Unlike Guix it insists
// on a size, and on well-formed names of store items everywhere.
//
// A signature that cannot be read makes the narinfo an unsigned one.
func ParseNarInfo(text []byte) (*NarInfo, error) {
	n, err := parseNarInfo(text)
	if err != nil {
		return nil, fmt.Errorf("parse narinfo: %w", err)
	}
	return n, nil
}

func parseNarInfo(text []byte) (*NarInfo, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	fields, err := parseFields(string(text))
	if err != nil {
		return nil, err
	}
	n := &NarInfo{text: bytes.Clone(text), tag: etag(text)}
	if err := n.readInfo(fields); err != nil {
		return nil, err
	}
	if err := n.readURLs(fields); err != nil {
		return nil, err
	}
	n.readSignature(fields)
	return n, nil
}

// A namedValue is a line of a record in the format of GNU recutils, with its continuations.
type namedValue struct{ name, value string }

// parseFields is recutils->alist of (guix records), for the first record of text.
func parseFields(text string) ([]namedValue, error) {
	var fields []namedValue
	var value strings.Builder // of the last field, if it is continued
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		switch {
		case line == "":
			if len(fields) > 0 {
				return fields, nil
			}
		case line[0] == '#':
		case line[0] == '+':
			if len(fields) == 0 {
				return nil, fmt.Errorf("line %d: continues no field", number)
			}
			last := &fields[len(fields)-1]
			if value.Len() == 0 {
				value.WriteString(last.value)
			}
			value.WriteByte('\n')
			value.WriteString(strings.TrimPrefix(line[1:], " "))
			last.value = value.String() // which copies nothing: a server may send a million lines
		default:
			name, text, ok := strings.Cut(line, ":")
			if first, _ := utf8.DecodeRuneInString(name); !ok || first != '%' && !unicode.IsLetter(first) {
				return nil, fmt.Errorf("line %d: %q is no field", number, line)
			}
			fields = append(fields, namedValue{name, strings.TrimLeftFunc(text, unicode.IsSpace)})
			value.Reset()
		}
	}
	return fields, nil
}

// lookup returns the first field called name.
func lookup(fields []namedValue, name string) (string, bool) {
	for _, f := range fields {
		if f.name == name {
			return f.value, true
		}
	}
	return "", false
}

func collect(fields []namedValue, name string) (values []string) {
	for _, f := range fields {
		if f.name == name {
			values = append(values, f.value)
		}
	}
	return values
}

func (n *NarInfo) readInfo(fields []namedValue) (err error) {
	var values [4]string
	for i, name := range []string{"StorePath", "NarHash", "NarSize", "References"} {
		value, ok := lookup(fields, name)
		if !ok {
			return fmt.Errorf("no field %s", name)
		}
		values[i] = value
	}
	if n.StorePath, err = ParseStorePath(values[0]); err != nil {
		return err
	}
	if n.NarHash, err = ParseHash(values[1]); err != nil {
		return err
	}
	if n.NarSize, err = parseSize(values[2]); err != nil {
		return fmt.Errorf("read NarSize: %w", err)
	}
	for _, base := range strings.Fields(values[3]) {
		ref, err := parseBase(base)
		if err != nil {
			return fmt.Errorf("read References: %w", err)
		}
		n.References = append(n.References, ref)
	}
	if deriver, _ := lookup(fields, "Deriver"); deriver != "" {
		if n.Deriver, err = parseBase(deriver); err != nil {
			return fmt.Errorf("read Deriver: %w", err)
		}
	}
	return nil
}

func parseSize(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no size", s)
	}
	return int64(n), nil
}

// readURLs zips the three lists of lines, the shortest of which determines the
// number of results; without any FileSize, none is known.
func (n *NarInfo) readURLs(fields []namedValue) error {
	urls, methods, sizes := collect(fields, "URL"), collect(fields, "Compression"), collect(fields, "FileSize")
	count := min(len(urls), len(methods))
	if len(sizes) > 0 {
		count = min(count, len(sizes))
	}
	for i := range count {
		u := NarURL{URL: urls[i], Compression: methods[i], FileSize: -1}
		if len(sizes) > 0 {
			size, err := parseSize(sizes[i])
			if err != nil {
				return fmt.Errorf("read FileSize: %w", err)
			}
			u.FileSize = size
		}
		n.URLs = append(n.URLs, u)
	}
	return nil
}

// readSignature finds the signature and what it is about: the text before the
// first "Signature:", wherever that is.
func (n *NarInfo) readSignature(fields []namedValue) {
	before, _, ok := bytes.Cut(n.text, []byte(signatureField))
	value, isField := lookup(fields, "Signature")
	if !ok || !isField {
		return
	}
	n.signed = before
	if n.Signature, n.sigError = parseSignatureField(value); n.sigError != nil {
		n.Signature = nil
	}
}

// parseSignatureField reads VERSION;HOST;BASE64.
func parseSignatureField(value string) (*Signature, error) {
	parts := strings.Split(value, ";")
	if len(parts) != 3 {
		return nil, fmt.Errorf("signature has %d parts, not 3", len(parts))
	}
	if parts[0] != "1" {
		return nil, fmt.Errorf("signature is of version %q, not 1", parts[0])
	}
	text, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, err
	}
	raw, err := latin1(text)
	if err != nil {
		return nil, err
	}
	return ParseSignature(raw)
}

// Bytes returns the narinfo's text, for a parsed one exactly what was parsed.
func (n *NarInfo) Bytes() []byte { return bytes.Clone(n.text) }

// etag makes a name for the text.
func etag(text []byte) string {
	sum := sha256.Sum256(text)
	return `"` + EncodeBase32(sum[:10]) + `"`
}

// MarshalText is [NarInfo.Bytes].
func (n *NarInfo) MarshalText() ([]byte, error) { return n.Bytes(), nil }

// signedBy reports whether n is signed with key, or key is nil.
func (n *NarInfo) signedBy(key *PrivateKey) bool {
	return key == nil || n.Signature != nil && n.Signature.Key.Equal(key.public)
}

// Equivalent reports whether both are about the same contents of the same store
// item, wherever these are to be had: equivalent-narinfo? of (guix narinfo).
// An unsigned narinfo that is equivalent to a verified one may be used for the
// download.
func (n *NarInfo) Equivalent(other *NarInfo) bool { return n.Info.equivalent(&other.Info) }

func (i *Info) equivalent(other *Info) bool {
	if i.StorePath != other.StorePath || i.NarHash != other.NarHash || i.NarSize != other.NarSize ||
		len(i.References) != len(other.References) {
		return false
	}
	for k, ref := range i.References {
		if ref != other.References[k] {
			return false
		}
	}
	return true
}

// NewNarInfo makes the narinfo of an item, signed with key on behalf of host, a
// name that nobody checks; unsigned if key is nil. File sizes are written if
// they are known for all urls: clients mistake one for another otherwise.
func NewNarInfo(info *Info, key *PrivateKey, host string, urls []NarURL) (*NarInfo, error) {
	text := appendInfo(nil, info)
	n := &NarInfo{Info: *info, URLs: urls}
	if key != nil {
		signed := bytes.Clone(text)
		line, sig, err := key.signatureLine(signed, host)
		if err != nil {
			return nil, fmt.Errorf("make narinfo: %w", err)
		}
		n.Signature, n.signed = sig, signed
		text = append(text, line...)
	}
	n.text = appendURLs(text, urls)
	n.tag = etag(n.text)
	return n, nil
}

// cachedURL is what the URLs in a [Cache] begin with.
const cachedURL = "nar/"

// at is a narinfo of a [Cache] for a server that has the archives below another address: which is not
// signed.
func (n *NarInfo) at(narURL string) *NarInfo {
	if narURL == cachedURL {
		return n
	}
	moved := *n
	moved.URLs = slices.Clone(n.URLs)
	for i, u := range moved.URLs {
		moved.URLs[i].URL = narURL + strings.TrimPrefix(u.URL, cachedURL)
	}
	moved.text = bytes.ReplaceAll(n.text, []byte("\nURL: "+cachedURL), []byte("\nURL: "+narURL))
	moved.tag = etag(moved.text)
	return &moved
}

// appendInfo writes what is signed, exactly as guix publish does: an empty list
// of references leaves a space at the line's end.
func appendInfo(b []byte, info *Info) []byte {
	b = appendField(b, "StorePath", string(info.StorePath))
	b = appendField(b, "NarHash", info.NarHash.String())
	b = appendField(b, "NarSize", strconv.FormatInt(info.NarSize, 10))
	b = append(b, "References: "...)
	for i, ref := range info.References {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, ref.Base()...)
	}
	b = append(b, '\n')
	if info.Deriver != "" {
		b = appendField(b, "Deriver", info.Deriver.Base())
	}
	return b
}

// appendField writes a line, without package fmt, which would take a tenth of what a narinfo does.
func appendField(b []byte, name, value string) []byte {
	return append(append(append(append(b, name...), ": "...), value...), '\n')
}

func appendURLs(b []byte, urls []NarURL) []byte {
	sizes := true
	for _, u := range urls {
		sizes = sizes && u.FileSize >= 0
	}
	for _, u := range urls {
		b = appendField(b, "URL", u.URL)
		b = appendField(b, "Compression", u.Compression)
		if sizes {
			b = appendField(b, "FileSize", strconv.FormatInt(u.FileSize, 10))
		}
	}
	return b
}

// signatureLine signs the text above it.
func (k *PrivateKey) signatureLine(signed []byte, host string) (string, *Signature, error) {
	if strings.ContainsAny(host, ";\n") {
		return "", nil, fmt.Errorf("host name %q has a semicolon or newline in it", host)
	}
	sig, err := k.Sign(sha256.Sum256(signed))
	if err != nil {
		return "", nil, err
	}
	payload := base64.StdEncoding.EncodeToString(sig.utf8())
	return fmt.Sprintf("%s 1;%s;%s\n", signatureField, host, payload), sig, nil
}
