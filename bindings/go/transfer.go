package kvgear

import (
	"errors"
	"fmt"
	"io"

	"kvgear.org/kvgear/internal/raw"
)

// chunk is how much goes through a reader or writer at once. Its memory is Go's own: what a reader or writer keeps of it
// against the rules is garbage, and no memory of C that was freed.
const chunk = 64 << 10

// direction is what moves bytes on the side of Go, at most a chunk at a time: how many, 0 at the end.
type direction struct {
	toC  bool
	move func(p []byte) (int, error)
}

func reads(r io.Reader) direction {
	var held error // came beside bytes
	return direction{true, func(p []byte) (int, error) {
		if held == io.EOF {
			return 0, nil
		} else if held != nil {
			return 0, held
		}
		for i := 0; i < 100; i++ {
			n, err := r.Read(p)
			switch {
			case n < 0 || n > len(p):
				return 0, fmt.Errorf("the reader says that it read %d bytes into %d", n, len(p))
			case n > 0:
				held = err
				return n, nil
			case err == io.EOF:
				return 0, nil
			case err != nil:
				return 0, err
			}
		}
		return 0, io.ErrNoProgress
	}}
}

func writes(w io.Writer) direction {
	return direction{false, func(p []byte) (int, error) {
		n, err := w.Write(p)
		if err == nil && n != len(p) {
			err = io.ErrShortWrite
		}
		return n, err
	}}
}

// transfer runs a call of C in a goroutine of its own, and the reader or writer that it calls back for in this one: so
// neither a panic nor the end of the goroutine, as of testing.T.FailNow, in a reader or writer unwinds C, which would
// keep its locks and its memory for ever. cause is the error of the reader or writer, or its panic.
func transfer(d direction, call func(raw.Mover) error) (failure, cause error) {
	buffer := make([]byte, chunk)
	ask, answer, done := make(chan int), make(chan int64), make(chan error, 1)
	go func() {
		done <- call(func(data []byte) int64 {
			n := min(len(data), chunk)
			if !d.toC {
				copy(buffer, data[:n])
			}
			ask <- n
			moved := <-answer
			if d.toC && moved > 0 {
				copy(data[:moved], buffer)
			}
			return moved
		})
	}()
	over, waits := false, false
	defer func() {
		if waits {
			answer <- -1
		}
		for !over { // the goroutine ends here: C must fail before what it uses is gone
			select {
			case <-ask:
				answer <- -1
			case <-done:
				over = true
			}
		}
	}()
	for {
		select {
		case n := <-ask:
			waits = true
			moved, err := guarded(d.move, buffer[:n])
			waits = false
			if err != nil {
				cause = err
				moved = -1
			}
			answer <- int64(moved)
		case failure = <-done:
			over = true
			return failure, cause
		}
	}
}

// guarded turns a panic into an error.
func guarded(move func([]byte) (int, error), p []byte) (n int, err error) {
	defer func() {
		if x := recover(); x != nil {
			err = panicked(x)
		}
	}()
	return move(p)
}

func panicked(x any) error {
	if err, ok := x.(error); ok {
		return fmt.Errorf("a panic: %w", err)
	}
	return fmt.Errorf("a panic: %v", x)
}

// because adds the cause to the error of a call.
func because(err, cause error) error {
	var e *Error
	if cause != nil && errors.As(err, &e) {
		return &Error{Op: e.Op, Status: e.Status, Message: e.Message, Cause: cause}
	}
	return err
}
