package channel_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/genenetwork/guixci/channel"
)

// sshServer serves over SSH what serve makes of "git-upload-pack PATH", to a user whose agent has
// a key and who knows the host. It returns the beginning of URLs.
func sshServer(t *testing.T, serve func(path string, with io.ReadWriter) error) (url string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, hostKey, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	_, userKey, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	signer, err := ssh.NewSignerFromKey(hostKey)
	must(err)
	dir, err := os.MkdirTemp("", "ssh") // the name of a socket must be short
	must(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	agents, err := net.Listen("unix", filepath.Join(dir, "agent"))
	must(err)
	t.Cleanup(func() {
		listener.Close()
		agents.Close()
		os.RemoveAll(dir)
	})
	keys := agent.NewKeyring()
	must(keys.Add(agent.AddedKey{PrivateKey: userKey}))
	go accept(agents, func(c net.Conn) { agent.ServeAgent(keys, c) })
	known := knownhosts.Line([]string{knownhosts.Normalize(listener.Addr().String())}, signer.PublicKey())
	must(os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(known+"\n"), 0o600))
	t.Setenv("SSH_AUTH_SOCK", filepath.Join(dir, "agent"))
	t.Setenv("SSH_KNOWN_HOSTS", filepath.Join(dir, "known_hosts"))
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(signer)
	go accept(listener, func(c net.Conn) { serveSSH(c, config, serve) })
	return "ssh://git@" + listener.Addr().String()
}

// accept has each connection handled until the listener is closed.
func accept(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			handle(c)
		}()
	}
}

func serveSSH(c net.Conn, config *ssh.ServerConfig, serve func(path string, with io.ReadWriter) error) {
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		session, requests, err := n.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			path, ok := strings.CutPrefix(string(r.Payload[4:]), "git-upload-pack ")
			r.Reply(ok, nil)
			if !ok {
				continue
			}
			status := byte(0)
			if serve(strings.Trim(path, "'"), session) != nil {
				status = 1
			}
			session.SendRequest("exit-status", false, []byte{0, 0, 0, status})
			session.Close()
		}
	}
}

// Channels are fetched over SSH with the keys of the user's agent.
func TestSSH(t *testing.T) {
	repo, intro := newRepo(t, map[string]string{"big": strings.Repeat("x", 1<<20)})
	url := sshServer(t, func(path string, with io.ReadWriter) error {
		cmd := exec.CommandContext(t.Context(), "git", "-c", "safe.directory=*", "upload-pack", path)
		cmd.Stdin, cmd.Stdout = with, with
		return cmd.Run()
	})
	repos := &channel.Repositories{Dir: t.TempDir()}
	refs, err := repos.References(t.Context(), url+repo.Dir)
	if err != nil || refs["refs/heads/master"] != intro.Commit {
		t.Fatalf("references %v, %v", refs, err)
	}
	_, got, err := repos.Resolve(t.Context(), channel.Channel{Name: "x", URL: url + repo.Dir})
	if err != nil || got != intro.Commit {
		t.Errorf("resolved to %s, %v", got, err)
	}
}

// An endless list of references is not listened to over SSH either.
func TestEndlessReferencesOverSSH(t *testing.T) {
	url := sshServer(t, func(_ string, with io.ReadWriter) error {
		line := func(text string) error {
			_, err := fmt.Fprintf(with, "%04x%s", len(text)+4, text)
			return err
		}
		err := line(strings.Repeat("1", 40) + " refs/heads/master\x00agent=x\n")
		for i := 0; err == nil; i++ {
			err = line(fmt.Sprintf("%040x refs/heads/%s%08d\n", i+1, strings.Repeat("long", 4000), i))
		}
		return err
	})
	s := &channel.Repositories{Dir: t.TempDir()}
	_, listed := s.References(t.Context(), url+"/x")
	_, fetched := s.Fetch(t.Context(), url+"/x")
	for _, err := range []error{listed, fetched} {
		if err == nil || !strings.Contains(err.Error(), "too large: more than 67108864 bytes of references") {
			t.Errorf("error %v", err)
		}
	}
}
