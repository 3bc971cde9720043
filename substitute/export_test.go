package substitute

// FlatPath lets tests name the item of a download.
func FlatPath(name string, contents Hash) StorePath {
	p, err := flatPath(name, contents)
	if err != nil {
		panic(err)
	}
	return p
}

// Escape is how narinfos spell names in URLs.
var Escape = escape
