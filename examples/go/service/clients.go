package service

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Clients bounds what the other sides of connections may take.
type Clients struct {
	Most     int           // connections at a time; further ones wait
	Patience time.Duration // for one to send a request, or to take what it is sent
}

// Server makes a server of a handler: heads of requests, connections that say nothing and writes end when patience does.
// Bodies are the handler's, for only it knows when they have come.
func (c Clients) Server(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadHeaderTimeout: c.Patience, IdleTimeout: c.Patience, MaxHeaderBytes: 32 << 10}
}

// Listener bounds the connections of a listener.
func (c Clients) Listener(inner net.Listener) net.Listener {
	return &listener{Listener: inner, slots: make(chan struct{}, c.Most), patience: c.Patience, closed: make(chan struct{})}
}

type listener struct {
	net.Listener
	slots    chan struct{}
	patience time.Duration
	once     sync.Once
	closed   chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	inner, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &connection{Conn: inner, listener: l}, nil
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type connection struct {
	net.Conn
	listener *listener
	once     sync.Once
}

// Write fails when the other side takes nothing for too long.
func (c *connection) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.listener.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *connection) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.listener.slots })
	return err
}

// deadline bounds the time that reading a request's body may take. 0 is none: of an answer under way, during which the
// server goes on reading to learn whether the client is still there.
func deadline(w http.ResponseWriter, patience time.Duration) {
	until := time.Time{}
	if patience != 0 {
		until = time.Now().Add(patience)
	}
	_ = http.NewResponseController(w).SetReadDeadline(until) // a test's recorder has none
}

func tooSlow(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
