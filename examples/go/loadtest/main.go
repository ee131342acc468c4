// loadtest sends many conversations at once to a service and compares every answer with that of a lone request.
//
//	loadtest -url http://127.0.0.1:8080 -requests 10000 -conversations 64 [-pid N]
//
// A conversation is begun, continued, forked, continued on both sides, and deleted. It works with the services of all languages: it
// uses nothing but what the README promises.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const scripts = 8 // different conversations

var (
	base   string
	client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}, Timeout: 5 * time.Minute}
	sent   atomic.Int64

	mu    sync.Mutex
	times []time.Duration
)

func request(method, path string, body any, out any) error {
	var text io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		text = bytes.NewReader(encoded)
	}
	r, err := http.NewRequest(method, base+path, text)
	if err != nil {
		return err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	begin := time.Now()
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	sent.Add(1)
	mu.Lock()
	times = append(times, time.Since(begin))
	mu.Unlock()
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s gives %s: %s", method, path, response.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

type answer struct {
	Choices []struct {
		Text string `json:"text"`
	} `json:"choices"`
	Cache string `json:"cache"`
}

func complete(prompt, cache string) (answer, error) {
	body := map[string]any{"prompt": prompt, "max_tokens": 1}
	if cache == "" {
		body["keep"] = true
	} else {
		body["cache"] = cache
	}
	var a answer
	err := request("POST", "/v1/completions", body, &a)
	if err == nil && (len(a.Choices) != 1 || a.Cache == "") {
		err = errors.New("an answer without a text or a cache")
	}
	return a, err
}

// talk holds conversation number `script` and returns all answers.
func talk(script int) (string, error) {
	var answers strings.Builder
	say := func(prompt, cache string) string {
		a, err := complete(prompt, cache)
		if err != nil {
			panic(err) // caught below
		}
		answers.WriteString(a.Choices[0].Text + "|")
		return a.Cache
	}
	work := func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = p.(error)
			}
		}()
		id := say(fmt.Sprintf("In case %d the ", script), "")
		for turn := 0; turn < 4; turn++ {
			say([]string{"a", "of", ".\n", " is", " to"}[(script+turn)%5], id)
		}
		var fork struct {
			ID string `json:"id"`
		}
		if err := request("POST", "/v1/caches/"+id+"/fork", nil, &fork); err != nil {
			return err
		}
		for turn := 0; turn < 2; turn++ {
			say(" x", fork.ID)
			say(" y", id)
		}
		return errors.Join(request("DELETE", "/v1/caches/"+id, nil, nil), request("DELETE", "/v1/caches/"+fork.ID, nil, nil))
	}
	err := work()
	return answers.String(), err
}

type list struct {
	Data  []json.RawMessage `json:"data"`
	Bytes uint64            `json:"bytes"`
}

// resident reads the memory of the service's process in KiB; 0 when that is not to be known.
func resident(pid int) (kib int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for _, line := range strings.Split(string(status), "\n") {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			_, _ = fmt.Sscan(rest, &kib)
		}
	}
	return kib
}

func run() error {
	flag.StringVar(&base, "url", "http://127.0.0.1:8080", "where the service listens; a loopback address")
	requests := flag.Int64("requests", 10000, "how many requests to send, at least")
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

	var want [scripts]string
	for i := range want {
		if want[i], err = talk(i); err != nil {
			return err
		}
	}
	var before list
	if err := request("GET", "/v1/caches", nil, &before); err != nil {
		return err
	}
	fmt.Printf("alone: %d requests, %d bytes in caches, resident %d KiB\n", sent.Load(), before.Bytes, resident(*pid))

	// Two halves: what is held for good shows in the second.
	var memory [2]int
	for half := range memory {
		end := sent.Load() + (*requests-sent.Load())/int64(len(memory)-half)
		if err := together(*conversations, end, want[:]); err != nil {
			return err
		}
		memory[half] = resident(*pid)
		var after list
		if err := request("GET", "/v1/caches", nil, &after); err != nil {
			return err
		}
		fmt.Printf("half %d: no error, %d caches, %d bytes in caches, resident %d KiB\n", half+1, len(after.Data), after.Bytes, memory[half])
		if len(after.Data) != len(before.Data) || after.Bytes != before.Bytes {
			return errors.New("caches are left")
		}
	}
	if memory[1] > memory[0]*5/4+16<<10 {
		return errors.New("the service's memory grows")
	}
	return nil
}

// together holds conversations until `end` requests have been sent.
func together(conversations int, end int64, want []string) error {
	times = nil
	begin := time.Now()
	var wg sync.WaitGroup
	var failed atomic.Int64
	for c := 0; c < conversations; c++ {
		wg.Add(1)
		go func(c int) {
			defer wg.Done()
			for n := c; sent.Load() < end && failed.Load() == 0; n++ {
				got, err := talk(n % scripts)
				if err == nil && got != want[n%scripts] {
					err = fmt.Errorf("conversation %d answers %q, alone %q", n%scripts, got, want[n%scripts])
				}
				if err == nil && n%4 == 0 {
					var all list
					err = request("GET", "/v1/caches", nil, &all)
				}
				if err != nil {
					failed.Add(1)
					log.Print(err)
				}
			}
		}(c)
	}
	wg.Wait()
	if failed.Load() > 0 {
		return errors.New("there were errors")
	}
	seconds := time.Since(begin).Seconds()
	slices.Sort(times)
	at := func(share float64) time.Duration {
		return times[int(share*float64(len(times)-1))].Round(time.Millisecond)
	}
	fmt.Printf("together: %d conversations at once, %d requests so far, %.0f a second, median %v, 99 %% within %v\n",
		conversations, sent.Load(), float64(len(times))/seconds, at(0.5), at(0.99))
	return nil
}

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("loadtest: ", err)
	}
}
