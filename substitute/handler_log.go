package substitute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
)

// A BuildLog is the output of a build.
type BuildLog struct {
	io.ReadCloser
	Size     int64  // in bytes, or -1 when not known
	Encoding string // "gzip", "bzip2", or "" for text as it is
}

// LogDir returns a function for Handler.Log that looks into dir, laid out as
// guix-daemon does in /var/log/guix/drvs: two characters of the derivation's
// file name, a slash, the rest, and ".gz", ".bz2" or nothing. An item's
// derivation is the deriver that source knows; nil looks up derivations only.
func LogDir(dir fs.FS, source Source) func(context.Context, StorePath) (*BuildLog, error) {
	return func(ctx context.Context, item StorePath) (*BuildLog, error) {
		if !item.IsDerivation() && source != nil {
			info, err := source.Info(ctx, item.Hash())
			if err != nil {
				return nil, err
			}
			if info.StorePath != item || info.Deriver == "" {
				return nil, fmt.Errorf("%w: deriver of %s is not known", ErrNotFound, item)
			}
			item = info.Deriver
		}
		return openLog(dir, item)
	}
}

func openLog(dir fs.FS, derivation StorePath) (*BuildLog, error) {
	base := derivation.Base()
	for _, kind := range []struct{ ending, encoding string }{{".gz", "gzip"}, {".bz2", "bzip2"}, {"", ""}} {
		f, err := dir.Open(path.Join(base[:2], base[2:]+kind.ending))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open build log: %w", err)
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("open build log: %w", err)
		}
		return &BuildLog{ReadCloser: f, Size: info.Size(), Encoding: kind.encoding}, nil
	}
	return nil, fmt.Errorf("%w: no log of %s", ErrNotFound, derivation)
}

func (h *Handler) serveLog(w http.ResponseWriter, r *http.Request, base string) {
	item, err := parseBase(base)
	if err != nil {
		notFound(w, r)
		return
	}
	log, err := h.Log(r.Context(), item)
	if err != nil {
		h.failed(w, r, err)
		return
	}
	defer log.Close()
	switch log.Encoding {
	case "bzip2":
		w.Header().Set("Content-Type", "application/x-bzip2")
	case "":
		w.Header().Set("Content-Type", textType)
	default:
		w.Header().Set("Content-Type", textType)
		w.Header().Set("Content-Encoding", log.Encoding)
	}
	h.copyLog(w, r, log)
}

// copyLog sends a log's bytes, no more than were announced: it may be growing.
func (h *Handler) copyLog(w http.ResponseWriter, r *http.Request, log *BuildLog) {
	var body io.Reader = log
	if log.Size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(log.Size, 10))
		body = io.LimitReader(log, log.Size)
	}
	if r.Method == http.MethodHead {
		return
	}
	if _, err := io.Copy(w, body); err != nil {
		h.report(r, err)
		panic(http.ErrAbortHandler)
	}
}
