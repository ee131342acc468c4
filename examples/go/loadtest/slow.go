package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Clients whose request never comes whole.
var slowClients = []struct {
	name, sends, then string
}{
	{"says nothing", "", ""},
	{"half a line", "POST /v1/comp", ""},
	{"half a head, a letter now and then", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", "a"},
	{"half a body", "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"prompt\": ", ""},
	{"half a body, a letter now and then", "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"prompt\": \"", "a"},
}

// checkSlow holds many such clients at once. The service must answer others meanwhile, and be rid of each before long.
func checkSlow(host string, patience time.Duration) error {
	const each = 20
	end := time.Now().Add(10*patience + 20*time.Second) // busy machines are slow too
	var wg sync.WaitGroup
	failures := make(chan error, each*len(slowClients))
	for _, c := range slowClients {
		c := c
		for i := 0; i < each; i++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				answer, err := waste(host, c.sends, c.then, patience/10, end)
				if err == nil && len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) {
					err = fmt.Errorf("it is answered: %.200q", answer)
				}
				if err != nil {
					failures <- fmt.Errorf("a client that sends %s: %w", c.name, err)
				}
			}()
		}
	}
	for i := 0; i < 10; i++ {
		if status, _, x, err := ask("GET", "/healthz", ""); err != nil || status != 200 {
			failures <- fmt.Errorf("/healthz gives %d, %v, %v beside slow clients", status, x, err)
			break
		}
		time.Sleep(patience / 20)
	}
	wg.Wait()
	close(failures)
	var all error
	for err := range failures {
		all = errors.Join(all, err)
	}
	if all != nil {
		return all
	}
	fmt.Printf("slow: %d clients of %d kinds were cut off\n", each*len(slowClients), len(slowClients))
	return nil
}

// waste sends a beginning, and then a text again and again. It returns what is answered until the connection is closed.
func waste(host, sends, then string, pause time.Duration, end time.Time) ([]byte, error) {
	conn, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(end); err != nil {
		return nil, err
	}
	closed := make(chan struct{})
	defer close(closed)
	go func() {
		_, err := io.WriteString(conn, sends)
		for err == nil && then != "" {
			select {
			case <-closed:
				return
			case <-time.After(pause):
				_, err = io.WriteString(conn, then)
			}
		}
	}()
	answer, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errors.New("it is not cut off")
	}
	if err != nil && !strings.Contains(err.Error(), "reset") {
		return nil, err
	}
	return answer, nil
}
