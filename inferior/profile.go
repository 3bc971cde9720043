package inferior

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Profile is what "guix pull" makes: a Guix with its channels.
type Profile struct {
	// Path is the profile by its name, a symbolic link.
	Path string
	// Item is the store item that it leads to.
	Item string

	channels []Channel
}

// A Channel is one of those a profile was made of, as its provenance says.
type Channel struct {
	Name   string
	URL    string
	Branch string // empty if none is known
	Commit string // 40 hexadecimal digits
	// Item is the store item with the channel's modules; for the channel
	// called guix, that Guix.
	Item string
	// IntroductionCommit and IntroductionSigner are where authentication started; the signer is a
	// fingerprint in groups, with spaces. Both are empty for a channel without introduction.
	IntroductionCommit string
	IntroductionSigner string
}

// Guix returns the guix program of the profile. Run under this name, it finds its channels.
func (p *Profile) Guix() string { return filepath.Join(p.Path, "bin", "guix") }

// Channels returns the channels of the profile, in the order of its manifest.
func (p *Profile) Channels() []Channel { return slices.Clone(p.channels) }

// OpenProfile reads the profile that path, a link made by "guix pull", leads to.
func OpenProfile(path string) (*Profile, error) {
	p, err := openProfile(path)
	if err != nil {
		return nil, fmt.Errorf("open profile: %w", err)
	}
	return p, nil
}

func openProfile(path string) (*Profile, error) {
	item, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(item, "manifest"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := sexp.NewReader(f)
	r.File = f.Name()
	manifest, err := r.Next()
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	channels, err := manifestChannels(manifest)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", f.Name(), err)
	}
	return &Profile{Path: path, Item: item, channels: channels}, nil
}

// manifestChannels reads (manifest (version N) (packages (ENTRY …))) of format
// 3 or 4. Entries without provenance are no channels.
func manifestChannels(manifest sexp.Value) ([]Channel, error) {
	fields, ok := sexp.Tagged(manifest, "manifest")
	if !ok {
		return nil, fmt.Errorf("no manifest")
	}
	packages, ok := sexp.Field(sexp.L(fields...), "packages")
	if !ok {
		return nil, fmt.Errorf("no packages in the manifest")
	}
	entries, ok := sexp.Items(packages)
	if !ok {
		return nil, fmt.Errorf("packages of the manifest are no list")
	}
	var channels []Channel
	for _, e := range entries {
		if c, ok := entryChannel(e); ok {
			channels = append(channels, c)
		}
	}
	return channels, nil
}

// entryChannel reads (NAME VERSION OUTPUT ITEM … (properties … (source (repository …)))).
func entryChannel(entry sexp.Value) (Channel, bool) {
	items, _ := sexp.Items(entry)
	properties, ok := sexp.Rest(entry, "properties")
	if !ok || len(items) < 4 {
		return Channel{}, false
	}
	source, ok := sexp.Field(sexp.L(properties...), "source")
	if !ok {
		return Channel{}, false
	}
	if _, ok := sexp.Tagged(source, "repository"); !ok {
		return Channel{}, false
	}
	c := Channel{Name: text(source, "name"), URL: text(source, "url"),
		Branch: text(source, "branch"), Commit: text(source, "commit")}
	if c.Name == "" { // provenance of old did not say
		c.Name, _ = sexp.Text(items[0])
	}
	c.Item, _ = sexp.Text(items[3])
	if introduction, ok := sexp.Field(source, "introduction"); ok {
		c.IntroductionCommit = text(introduction, "commit")
		c.IntroductionSigner = text(introduction, "signer")
	}
	return c, c.URL != "" && c.Commit != ""
}
