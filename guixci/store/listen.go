package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// An operation is a request's number, from worker-protocol.hh.
type operation uint64

const (
	opIsValidPath             operation = 1
	opQueryReferences         operation = 5
	opQueryReferrers          operation = 6
	opAddToStore              operation = 7
	opAddTextToStore          operation = 8
	opBuildPaths              operation = 9
	opEnsurePath              operation = 10
	opAddTempRoot             operation = 11
	opAddIndirectRoot         operation = 12
	opFindRoots               operation = 14
	opExportPath              operation = 16
	opSetOptions              operation = 19
	opCollectGarbage          operation = 20
	opQueryDerivationOutputs  operation = 22
	opQueryAllValidPaths      operation = 23
	opQueryPathInfo           operation = 26
	opImportPaths             operation = 27
	opQueryPathFromHashPart   operation = 29
	opQuerySubstitutableInfos operation = 30
	opQueryValidPaths         operation = 31
	opQuerySubstitutablePaths operation = 32
	opQueryValidDerivers      operation = 33
	opVerifyStore             operation = 35
	opSubstituteURLs          operation = 81
)

// What the daemon may say while it works, before the results.
const (
	sayNext  = 0x6f6c6d67 // something to print
	sayRead  = 0x64617461 // it wants data
	sayWrite = 0x64617416 // it has data
	sayLast  = 0x616c7473 // done, results follow
	sayError = 0x63787470 // done, no results
)

// listen serves the daemon until it is done. If it has results, which are then
// next to be read, said is nil. An error of x.in or x.out, which does not keep
// the exchange from going on to its end, is returned as local; errors of the
// connection are in c.r.err.
func (c *Client) listen(x exchange) (said *DaemonError, local error) {
	for c.r.err == nil {
		switch word := c.r.uint(); word {
		case sayNext:
			c.print(x, c.r.bytes())
		case sayWrite:
			if x.out == nil {
				x.out = io.Discard
			}
			if err := c.r.copyTo(x.out); err != nil {
				local, x.out = errors.Join(local, err), nil
			}
		case sayRead:
			if err := c.feed(x.in); err != nil {
				local, x.in = errors.Join(local, err), nil
			}
		case sayLast:
			return nil, local
		case sayError:
			message := bytes.ToValidUTF8(c.r.bytes(), []byte("?"))
			return &DaemonError{Message: string(message), Status: int(uint32(c.r.uint()))}, local
		default:
			c.r.fail("daemon says %#x, which is not part of the protocol", word)
		}
	}
	return nil, local
}

// feed gives the daemon as much of in as it asks for; nothing at all means the end.
func (c *Client) feed(in io.Reader) error {
	n := c.r.length("wanted data", 1<<30)
	if c.r.err != nil {
		return nil
	}
	b := make([]byte, min(n, chunk))
	var got int
	err := io.EOF
	if in != nil && len(b) > 0 {
		got, err = io.ReadAtLeast(in, b, 1)
	}
	c.w.bytes(b[:got])
	if werr := c.w.flush(); werr != nil {
		c.r.err = werr
	}
	if err != nil && err != io.EOF {
		return fmt.Errorf("read data: %w", err)
	}
	return nil
}

func (c *Client) print(x exchange, text []byte) {
	switch {
	case x.log != nil:
		x.log(text)
	case c.Logger != nil:
		c.Logger.Info("guix-daemon", "says", string(bytes.TrimSpace(text)))
	}
}
