package inferior

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// captured is what a real "guix pull" of Guix 1.5.0 left behind: its messages,
// the log of the build that failed, and the part of the store between them.
func captured(t *testing.T, kind, name string) evidence {
	t.Helper()
	dir := filepath.Join("testdata", kind, name)
	messages, err := os.ReadFile(filepath.Join(dir, "messages"))
	if err != nil {
		t.Fatal(err)
	}
	store := func(path string) string {
		return filepath.Join(dir, "store", strings.TrimPrefix(path, "/gnu/store/"))
	}
	return evidence{
		command: "guix " + kind, messages: string(messages), status: "exit status 1", channels: []string{"guix", "sample"},
		log: func(path string) string {
			if !strings.HasPrefix(path, "/var/log/guix/drvs/") {
				t.Errorf("log asked for: %q", path)
			}
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			return string(b)
		},
		file: func(path string) []byte {
			b, _ := os.ReadFile(store(path))
			return b
		},
		walk: func(directory string) []string { return schemeFiles(store(directory)) },
	}
}

func TestDiagnose(t *testing.T) {
	for _, c := range []struct {
		name  string
		stage Stage
		cause Cause
		want  string // of Error
	}{
		{"unbound-toplevel", StageBuild, CauseUnboundVariable, `pull: build of channel "sample": sample/broken.scm:9: Unbound variable: linux-libre-7.2`},
		{"unbound-thunk", StagePackageCache, CauseUnboundVariable, `pull: package-cache of channel "sample": sample/broken.scm:11: Unbound variable: linux-libre-7.2`},
		{"missing-module", StageBuild, CauseMissingModule, `pull: build of channel "sample": sample/broken.scm:6: no code for module (gnu packages no-such-thing)`},
		{"missing-binding", StageBuild, CauseUnboundVariable, "pull: build of channel \"sample\": sample/broken.scm:6: no binding `no-such-package' in module (gnu packages base)"},
		{"module-name", StageBuild, CauseMissingModule, `pull: build of channel "sample": sample/broken.scm:1: no code for module (sample broken)`},
		{"bad-field", StageBuild, CauseSyntax, `pull: build of channel "sample": sample/broken.scm:8: package: extraneous field initializers (nmae)`},
		{"bad-form", StageBuild, CauseSyntax, `pull: build of channel "sample": sample/broken.scm:8: let: bad let`},
		{"syntax-unclosed", StageBuild, CauseSyntax, `pull: build of channel "sample": sample/broken.scm:11: unexpected end of input while searching for: )`},
		{"syntax-extra", StageBuild, CauseSyntax, `pull: build of channel "sample": sample/broken.scm:7: unexpected ")"`},
		{"raises", StageBuild, "", `pull: build of channel "sample": no-such.patch: patch not found`},
		{"wrong-type", StageBuild, "", `pull: build of channel "sample": Wrong type argument in position 1 (expecting pair): ()`},
		{"exit", StageBuild, "", `pull: build of channel "sample": 7`},
		{"forged", StageAuthenticate, CauseAuthentication, `pull: authenticate of channel "sample": commit 3930dbcb16bbc22e155e345e29efee77b3525f12 not signed by an authorized key: 5011 F8AD 7741 A57D E980  FCFD 9E42 7280 B2A6 EBE1`},
		{"unsigned", StageAuthenticate, CauseAuthentication, `pull: authenticate of channel "sample": commit ae0fa0ba4e00211a45262bae2c2f1554a1d1a868 lacks a signature`},
		{"nokey", StageAuthenticate, CauseAuthentication, `pull: authenticate of channel "sample": could not authenticate commit 1c3882b2b4cc0c74f5008d8114dee890aab6e0ba: key 5011 F8AD 7741 A57D E980  FCFD 9E42 7280 B2A6 EBE1 is missing`},
		{"wrong-intro", StageAuthenticate, CauseAuthentication, `pull: authenticate of channel "sample": initial commit aa21a421d4ef1a19a74dbbbb3c4e16a61b7fc02a is signed by 'A639 2419 BBB9 2D87 4E3B  FF76 09D2 26B0 AF6A 3E97' instead of '5011 F8AD 7741 A57D E980  FCFD 9E42 7280 B2A6 EBE1'`},
		{"guix-no-intro", StageAuthenticate, CauseAuthentication, `pull: authenticate of channel "guix": channel 'guix' lacks an introduction and cannot be authenticated`},
		{"no-guix", StageDependencies, CauseMissingGuix, `pull: dependencies: /srv/git/no-guix2.scm:1: 'guix' channel is lacking`},
		{"gone", StageFetch, CauseRepository, `pull: fetch of channel "sample": Git error: failed to resolve path '/srv/git/nowhere': No such file or directory`},
		{"no-branch", StageFetch, CauseRepository, `pull: fetch of channel "sample": Git error: cannot locate remote-tracking branch 'origin/no-such-branch'`},
		{"no-commit", StageFetch, CauseRepository, `pull: fetch of channel "sample": Git error: object not found - no match for id (0123456789012345678901234567890123456789)`},
		{"nohost", StageFetch, CauseNetwork, `pull: fetch of channel "sample": Git error: failed to resolve address for no-such-host.invalid: Name or service not known`},
		{"refused", StageFetch, CauseNetwork, `pull: fetch of channel "sample": Git error: failed to connect to localhost: Connection refused`},
		{"dep-gone", StageDependencies, CauseRepository, `pull: dependencies of channel "dependency": Git error: failed to resolve path '/srv/git/nowhere': No such file or directory`},
		{"bad-metadata", StageDependencies, "", `pull: dependencies of channel "sample": .guix-channel:1: unsupported '.guix-channel' version`},
		{"metadata-syntax", StageDependencies, CauseSyntax, `pull: dependencies of channel "sample": .guix-channel:2: unexpected end of input while searching for: )`},
		{"self-unbound", StageBuild, CauseUnboundVariable, `pull: build of channel "guix": build-aux/build-self.scm: frobnicate: unbound variable`},
		{"self-throws", StageBuild, "", `pull: build of channel "guix": In procedure car: Wrong type argument in position 1 (expecting pair): "x86_64-linux"`},
		{"no-daemon", StageStart, CauseMachinery, "pull: start: failed to connect to `/var/lib/ci/no-socket': No such file or directory"},
		{"no-space", StageFetch, CauseNoSpace, `pull: fetch of channel "guix": Git error: failed to write out file: No space left on device`},
		{"no-space-profile", StageProfile, CauseNoSpace, `pull: profile: symlink: No space left on device: "/var/lib/ci/small/p.new"`},
		{"per-user", StageStart, CausePermission, "pull: start: directory `/var/guix/profiles/per-user/nobody' is not owned by you"},
		{"foreign-cache", StageStart, CausePermission, "pull: start: directory '/var/lib/ci/cache/guix' is not owned by user nobody"},
		{"not-list", StageStart, CauseChannelsFile, "pull: start: '/srv/git/not-list.scm' did not return a list of channels"},
		{"syntax", StageStart, CauseChannelsFile, "pull: start: /srv/git/syntax.scm:2: missing closing parenthesis"},
		{"unbound", StageStart, CauseChannelsFile, "pull: start: /srv/git/unbound.scm:1: chanel: unbound variable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := diagnosePull(captured(t, "pull", c.name))
			if e.Stage != c.stage || e.Cause != c.cause || e.Error() != c.want {
				t.Errorf("\n got %s, %q: %s\nwant %s, %q: %s", e.Stage, e.Cause, e, c.stage, c.cause, c.want)
			}
			if e.Cause != "" && e.Cause != CauseMachinery && e.Cause != CauseChannelsFile && e.Hint == "" {
				t.Error("no hint")
			}
			if (e.Derivation != "") != (e.BuildLog != "") {
				t.Errorf("derivation %q, log %q", e.Derivation, e.BuildLog)
			}
		})
	}
}

func TestDiagnoseSystem(t *testing.T) {
	for _, c := range []struct {
		name  string
		cause Cause
		want  string // of Error
	}{
		{"unbound", CauseUnboundVariable, `build system of "os.scm": /etc/ci/unbound.scm:6: no-such-bootloader: unbound variable`},
		{"module", CauseMissingModule, `build system of "os.scm": failed to load '/etc/ci/module.scm': In procedure resolve-interface: no code for module (no such module)`},
		{"syntax", CauseSyntax, `build system of "os.scm": /etc/ci/syntax.scm:4: missing closing parenthesis`},
		{"field", CauseSyntax, `build system of "os.scm": /etc/ci/field.scm:2: (operating-system (hots-name "x")): extraneous field initializers (hots-name)`},
		{"notos", "", `build system of "os.scm": '/etc/ci/notos.scm' does not return an operating system or an image`},
		{"throws", "", `build system of "os.scm": /etc/ci/throws.scm:2: failed to load '/etc/ci/throws.scm': In procedure car: Wrong type (expecting pair): 5`},
		{"service", "", `build system of "os.scm": service 'web' requires 'nothing-like-it', which is not provided by any service`},
		{"missing", "", `build system of "os.scm": failed to load '/etc/ci/missing.scm': No such file or directory`},
		{"fails", "", `build system of "os.scm": In procedure error: it is broken on purpose`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := diagnoseSystem(captured(t, "system", c.name), "os.scm")
			if e.Cause != c.cause || e.Error() != c.want {
				t.Errorf("\n got %q: %s\nwant %q: %s", e.Cause, e, c.cause, c.want)
			}
			if (e.Derivation != "") != (c.name == "fails") {
				t.Errorf("derivation %q", e.Derivation)
			}
		})
	}
}

// A builder that somebody killed says nothing about the channels.
func TestKilledBuilder(t *testing.T) {
	const drv = "/gnu/store/zyhpf3r8bbnqz0saiz8jm688fw4x6kb2-sample-channel.drv"
	messages := "Building from these channels:\n" +
		"  sample-channelfile:///x/sample-channel.git\tee1abe7\n" +
		"building " + drv + "...\n" +
		"builder for `" + drv + "' failed due to signal 9 (Killed)\n" +
		"build of " + drv + " failed\n" +
		"guix pull: error: build of `" + drv + "' failed\n"
	e := diagnosePull(evidence{command: "guix pull", messages: messages, status: "exit status 1"})
	if !e.Machinery() || !strings.Contains(e.Message, "signal 9") {
		t.Errorf("cause %q, message %q: want machinery and the signal", e.Cause, e.Message)
	}
}
