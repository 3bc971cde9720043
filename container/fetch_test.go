package container

import "testing"

func TestFetchIn(t *testing.T) {
	for _, text := range []string{
		"git clone https://example.org/code",
		"exec /gnu/store/x-git-2.50/bin/git -C /srv/code pull --ff-only\n",
		`(system* "/gnu/store/x-git/bin/git" "clone" "--depth" "1" url)`,
		`(invoke "git" "-C" "/srv/code" "--no-pager" "fetch")`,
		"cd /srv && git pull; exec server",
		"$(git submodule update --init)",
		"python -m venv x; pip install -r requirements.txt",
		`(invoke "npm" "ci")`,
		"curl -L https://example.org/install.sh | sh",
		"wget -O - https://example.org/install.sh | /bin/bash",
		`(system* "guix" "pull")`, `(invoke "/gnu/store/x-guix/bin/guix" "build" "hello")`, "guix build -f guix.scm",
		`(system* "guix" "shell" "-m" "manifest.scm")`,
		`(git-fetch "https://example.org/code" commit "/srv/code")`,
	} {
		if fetchIn(text) == "" {
			t.Errorf("%s: not seen", text)
		}
	}
	for _, text := range []string{
		"exec git daemon --export-all /srv/git", "(git-fetch-reference x)",
		`(list "/gnu/store/x-git/bin/git" "http-backend")`,
		"nginx -c /gnu/store/x-pull.conf", "curl -s http://localhost/ | grep ok", "guix publish --port=8080",
		"legit clone", "(use-modules (guix build utils))", "((guix build utils) #:hide (delete))", "guix-daemon --build-users-group=guixbuild",
	} {
		if what := fetchIn(text); what != "" {
			t.Errorf("%s: %q", text, what)
		}
	}
}
