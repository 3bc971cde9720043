package substitute

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
)

// metrics count what a Handler does.
type metrics struct {
	narinfos, missing, failed atomic.Int64
	baked, compressed, plain  atomic.Int64
	bytes                     atomic.Int64
}

// WriteMetrics writes counters of what h has done in the text format of
// Prometheus. The driver serves them under /metrics, on request.
func (h *Handler) WriteMetrics(w io.Writer) error {
	h.init.Do(h.setup)
	m := &h.metrics
	inUse, waiting, spooled := h.spools.state()
	pending := 0
	if h.Baker != nil {
		pending = h.Baker.Pending()
	}
	for _, line := range []struct {
		kind, name, help string
		value            int64
	}{
		{"counter", "narinfos_total", "narinfos sent", m.narinfos.Load()},
		{"counter", "missing_total", "narinfos asked for that do not exist", m.missing.Load()},
		{"counter", "failures_total", "requests that failed on our side", m.failed.Load()},
		{"counter", "baked_nars_total", "archives sent as they were kept", m.baked.Load()},
		{"counter", "compressed_nars_total", "archives compressed when asked for", m.compressed.Load()},
		{"counter", "plain_nars_total", "archives sent uncompressed", m.plain.Load()},
		{"counter", "nar_bytes_total", "bytes of archives sent", m.bytes.Load()},
		{"gauge", "encoders", "archives being compressed", int64(inUse)},
		{"gauge", "encoders_waited_for", "requests waiting for an encoder", waiting},
		{"gauge", "spool_bytes", "bytes compressed for clients that have not read them", spooled},
		{"gauge", "baking_pending", "items to be baked", int64(pending)},
	} {
		name := "guixci_substitute_" + line.name
		if _, err := fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %d\n", name, line.help, name, line.kind, name, line.value); err != nil {
			return err
		}
	}
	return nil
}

// A countedResponse counts bytes. It keeps ReadFrom, and with it sendfile.
type countedResponse struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countedResponse) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *countedResponse) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.n.Add(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (c *countedResponse) Unwrap() http.ResponseWriter { return c.ResponseWriter }
