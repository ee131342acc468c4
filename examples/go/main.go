// kvgear-service answers completions over HTTP with a small model, and keeps the caches of its conversations compressed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"kvgear.org/example/model"
	"kvgear.org/example/service"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("kvgear-service: ", err)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on; port 0 takes a free one")
	folder := flag.String("model", "../models/tiny", "folder with config.json and model.safetensors")
	prompt := flag.String("prompt", "", "continue this text and exit, instead of listening")
	count := flag.Int("max-tokens", 256, "most tokens of one answer")
	options := service.Options{MaxBody: 1 << 20}
	flag.StringVar(&options.Recipe, "recipe", "gear-4", "recipe of conversations that name none")
	flag.IntVar(&options.MaxCaches, "max-caches", 256, "most conversations that are kept")
	flag.Uint64Var(&options.MemoryBudget, "memory-budget", 0, "most bytes of all caches; 0 = no limit")
	flag.IntVar(&options.Parallel, "parallel", runtime.NumCPU(), "most requests that compute at the same time")
	drain := flag.Duration("drain", 30*time.Second, "how long SIGTERM waits for the requests under way")
	clients := service.Clients{}
	flag.IntVar(&clients.Most, "max-clients", 1024, "most connections at a time; further ones wait")
	seconds := flag.Int("client-timeout", 30, "seconds that a client may take to send a request, or not take what it is sent")
	flag.Parse()
	clients.Patience = time.Duration(*seconds) * time.Second
	options.Patience = clients.Patience
	if flag.NArg() > 0 || options.Parallel < 1 || *count < 1 || clients.Most < 1 || *seconds < 1 {
		return errors.New("a wrong argument; see -help")
	}
	options.MaxTokens = *count

	m, err := model.Load(*folder)
	if err != nil {
		return err
	}
	s, err := service.New(m, options)
	if err != nil {
		return err
	}
	if *prompt != "" {
		return errors.Join(s.Continue(os.Stdout, *prompt, *count), s.Close())
	}

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	server := clients.Server(s)
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(clients.Listener(listener)) }()
	fmt.Printf("listening on http://%s\n", listener.Addr())

	select {
	case err := <-failed:
		return err
	case <-stop.Done():
	}
	log.Print("kvgear-service: draining")
	patience, cancel := context.WithTimeout(context.Background(), *drain)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		return err // requests are still under way: their caches end with the process
	}
	if err := s.Close(); err != nil {
		return err
	}
	log.Print("kvgear-service: drained")
	return nil
}
