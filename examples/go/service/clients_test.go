package service

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func listen(t *testing.T, c Clients, handler http.Handler) string {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := c.Server(handler)
	done := make(chan error, 1)
	go func() { done <- server.Serve(c.Listener(inner)) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return inner.Addr().String()
}

func dial(t *testing.T, address, request string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Further connections wait until others end, and nobody waits when the server does.
func TestClientsAtATime(t *testing.T) {
	address := listen(t, Clients{Most: 1, Patience: time.Minute}, http.NotFoundHandler())
	const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	answered := func(c net.Conn) bool {
		line, err := bufio.NewReader(c).ReadString('\n')
		return err == nil && strings.HasPrefix(line, "HTTP/1.1 404")
	}
	first := dial(t, address, request)
	if !answered(first) {
		t.Error("the first client is not answered")
	}
	second := dial(t, address, request)
	_ = second.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a second client at a time is answered", err)
	}
	first.Close()
	_ = second.SetReadDeadline(time.Now().Add(time.Minute))
	if !answered(second) {
		t.Error("the second client is not answered after the first")
	}
	dial(t, address, request) // waits when the server ends
}

func TestSlowBody(t *testing.T) {
	s, _ := start(t, Options{})
	s.options.Patience = 100 * time.Millisecond
	address := listen(t, Clients{Most: 9, Patience: s.options.Patience}, s)
	conn := dial(t, address, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"prompt\": ")
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408") || !strings.Contains(string(answer), "send it faster") {
		t.Errorf("%q, %v", answer, err)
	}
	// Patience is not for the time that an answer takes.
	body := `{"prompt": "a", "max_tokens": 64}`
	conn = dial(t, address, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 33\r\n\r\n"+body)
	if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Errorf("%q, %v", answer, err)
	}
}

// Who takes nothing of an answer is not waited for.
func TestClientThatTakesNothing(t *testing.T) {
	failed := make(chan error, 1)
	address := listen(t, Clients{Most: 9, Patience: 100 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < 1000; i++ {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}))
	dial(t, address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}
