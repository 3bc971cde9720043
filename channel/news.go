package channel

import (
	"context"
	"errors"
	"io/fs"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A NewsEntry is something the authors of a channel want its users to know.
type NewsEntry struct {
	Commit Commit `json:"commit,omitempty"` // that it is about
	Tag    string `json:"tag,omitempty"`    // instead of a commit
	// Title and Body are texts in Texinfo, by language code.
	Title map[string]string `json:"title"`
	Body  map[string]string `json:"body"`
}

// ReadNews reads a channel's news file. As in Guix one of an unknown version has no
// entries; anything else it cannot read is a *[sexp.SyntaxError]. The name is used in errors.
func ReadNews(name string, text []byte) ([]NewsEntry, error) {
	v, err := firstDatum(name, text)
	if err != nil {
		return nil, err
	}
	m := metadataReader{file: name}
	top, _ := v.(*sexp.List)
	rest, ok := sexp.Tagged(v, "channel-news")
	if !ok || len(rest) == 0 {
		return nil, m.fail(top, "not a news file: (channel-news (version 0) …) is wanted")
	}
	if version, ok := sexp.Tagged(rest[0], "version"); !ok || len(version) != 1 || version[0] != sexp.Value(sexp.Int(0)) {
		return nil, nil
	}
	var news []NewsEntry
	for _, item := range rest[1:] {
		e, err := m.newsEntry(item)
		if err != nil {
			return nil, err
		}
		news = append(news, e)
	}
	return news, nil
}

// newsEntry reads (entry (commit "…") (title (en "…")) (body (en "…"))).
func (m metadataReader) newsEntry(v sexp.Value) (e NewsEntry, err error) {
	l, _ := v.(*sexp.List)
	fields, ok := sexp.Tagged(v, "entry")
	if !ok {
		return e, m.fail(l, "%.40s is not (entry …)", v)
	}
	entry := sexp.L(fields...)
	entry.Pos = l.Pos
	var commit string
	for key, to := range map[sexp.Symbol]*string{"commit": &commit, "tag": &e.Tag} {
		if err := m.text(entry, key, to); err != nil {
			return e, err
		}
	}
	if e.Commit = Commit(commit); (commit == "") == (e.Tag == "") {
		return e, m.fail(l, "the entry must be about one commit or one tag")
	}
	e.Title, e.Body = translations(entry, "title"), translations(entry, "body")
	return e, nil
}

// translations reads ((en "…") (fr "…")).
func translations(l *sexp.List, key sexp.Symbol) map[string]string {
	texts := map[string]string{}
	items, _ := sexp.Rest(l, key)
	for _, item := range items {
		pair, _ := sexp.Items(item)
		if len(pair) != 2 {
			continue
		}
		language, _ := pair[0].(sexp.Symbol)
		if text, ok := pair[1].(sexp.String); ok && language != "" {
			texts[string(language)] = string(text)
		}
	}
	return texts
}

// News returns what is new at commit to for somebody who comes from commit from, in the
// order of the file: entries whose commit is among those that to has and from has
// not. As in Guix it ends at the first entry that is not new, and there is none at all when
// one is about a commit or a tag that the repository has not.
func (r *Repository) News(ctx context.Context, from, to Commit) ([]NewsEntry, error) {
	metadata, err := r.Metadata(to)
	if err != nil || metadata.NewsFile == "" {
		return nil, err
	}
	text, err := r.File(to, metadata.NewsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := ReadNews(metadata.NewsFile, text)
	if err != nil {
		return nil, err
	}
	for i, e := range all {
		if e.Tag == "" {
			continue
		}
		if all[i].Commit, err = r.tag(e.Tag); err != nil {
			return nil, nil // a tag that is not there
		}
	}
	fresh, err := r.between(ctx, from, to)
	if err != nil {
		return nil, err
	}
	for i, e := range all {
		id, err := e.Commit.id()
		if err != nil || !r.has(e.Commit) {
			return nil, nil
		}
		if !fresh[id] {
			return all[:i], nil
		}
	}
	return all, nil
}

// between reports which commits to has and from has not.
func (r *Repository) between(ctx context.Context, from, to Commit) (map[objectID]bool, error) {
	start, err := from.id()
	if err != nil {
		return nil, err
	}
	end, err := to.id()
	if err != nil {
		return nil, err
	}
	var old commitSet
	h := newHistory(r)
	if _, _, err := h.walk(ctx, []objectID{start}, &old); err != nil {
		return nil, err
	}
	order, _, err := h.walk(ctx, []objectID{end}, new(commitSet), old)
	fresh := map[objectID]bool{}
	for _, i := range order {
		fresh[h.nodes[i].id] = true
	}
	return fresh, err
}

// IsAncestor reports whether commit a is b or comes before it.
// A commit that is not in the repository comes before none.
func (r *Repository) IsAncestor(ctx context.Context, a, b Commit) (bool, error) {
	start, err := a.id()
	if err != nil {
		return false, err
	}
	end, err := b.id()
	if err != nil || !r.has(a) {
		return false, err
	}
	return newHistory(r).descends(ctx, end, []objectID{start})
}
