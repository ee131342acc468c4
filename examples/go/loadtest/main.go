// loadtest asks a service of any of the languages for what the README promises. It knows HTTP and JSON, and nothing of kvgear.
//
//	loadtest -url http://127.0.0.1:8080 -surface                                        the shape of answers and refusals
//	loadtest -url http://127.0.0.1:8080 -limits                                         refusals at the limits of checkLimits
//	loadtest -url http://127.0.0.1:8080 -slow 2                                         clients that the service must not wait for
//	loadtest -url http://127.0.0.1:8080 -demo build/dev/kvgear-demo -model models/tiny  the bytes of the C++ demo
//	loadtest -url http://127.0.0.1:8080 -requests 10000 -conversations 64 -pid N        many conversations at once
//
// In the last, a conversation is begun, continued, forked, continued on both sides, and deleted, and every answer is compared with that of a
// lone request. Several of these may be asked for at once.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/url"
	"strings"
	"time"
)

func run() error {
	flag.StringVar(&base, "url", "http://127.0.0.1:8080", "where the service listens; a loopback address")
	surface := flag.Bool("surface", false, "check the shape of answers and refusals")
	limits := flag.Bool("limits", false, "check the limits of a service with those of checkLimits")
	slow := flag.Int("slow", 0, "check that clients that send nothing for more than so many seconds, its -client-timeout, are cut off")
	demo := flag.String("demo", "", "kvgear-demo, to compare answers with")
	model := flag.String("model", "", "folder of the model that the demo is to use")
	recipes := flag.String("recipes", "fp16 int8 gear-4 gear-2 kivi-2 gear-k3v2 gear-2,k.rank=2;0-1:int8", "of the comparison with the demo")
	requests := flag.Int64("requests", 0, "how many requests to send, at least")
	conversations := flag.Int("conversations", 64, "how many at once")
	pid := flag.Int("pid", 0, "process of the service, to print its memory")
	flag.Parse()
	u, err := url.Parse(base)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%s is no loopback address; this program loads services on its own machine only", base)
	}
	if *surface {
		if err := checkSurface(); err != nil {
			return err
		}
	}
	if *limits {
		if err := checkLimits(); err != nil {
			return err
		}
	}
	if *slow > 0 {
		if err := checkSlow(u.Host, time.Duration(*slow)*time.Second); err != nil {
			return err
		}
	}
	if *demo != "" {
		if err := checkDemo(*demo, *model, strings.Fields(*recipes)); err != nil {
			return err
		}
	}
	if *requests > 0 {
		return load(*requests, *conversations, *pid)
	}
	return nil
}

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("loadtest: ", err)
	}
}
