package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const scripts = 8 // different conversations

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

// load holds every conversation alone, then many at once, and compares.
func load(requests int64, conversations, pid int) error {
	var want [scripts]string
	var err error
	for i := range want {
		if want[i], err = talk(i); err != nil {
			return err
		}
	}
	var before list
	if err := request("GET", "/v1/caches", nil, &before); err != nil {
		return err
	}
	fmt.Printf("alone: %d requests, %d bytes in caches, resident %d KiB\n", sent.Load(), before.Bytes, resident(pid))

	// Two halves: what is held for good shows in the second.
	begun := sent.Load()
	var memory [2]int
	for half := range memory {
		end := sent.Load() + (begun+requests-sent.Load())/int64(len(memory)-half)
		if err := together(conversations, end, want[:]); err != nil {
			return err
		}
		memory[half] = resident(pid)
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

// together holds as many conversations at once, each at least once and until `end` requests have been sent.
func together(conversations int, end int64, want []string) error {
	times = nil
	begin := time.Now()
	var wg sync.WaitGroup
	var failed atomic.Int64
	for c := 0; c < conversations; c++ {
		wg.Add(1)
		go func(c int) {
			defer wg.Done()
			for n := c; n == c || sent.Load() < end && failed.Load() == 0; n++ {
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
