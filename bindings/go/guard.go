package kvgear

import "sync/atomic"

// guard counts the calls that use a C handle and ends the handle once it is closed and the last call is over. end must
// not refer to what holds the guard: that has a finalizer.
type guard struct {
	state atomic.Int64
	end   func()
}

const (
	guardClosed = int64(1) << 62 // close was called; the lower bits count calls
	guardEnded  = guardClosed | int64(1)<<61
)

// enter begins a call; false when the handle is closed.
func (g *guard) enter() bool {
	if g.state.Add(1)&guardClosed == 0 {
		return true
	}
	g.leave()
	return false
}

// leave ends a call.
func (g *guard) leave() {
	if g.state.Add(-1) == guardClosed {
		g.endOnce()
	}
}

// close forbids further calls. Only the first has an effect.
func (g *guard) close() {
	for {
		old := g.state.Load()
		if old&guardClosed != 0 {
			return
		}
		if g.state.CompareAndSwap(old, old|guardClosed) {
			if old == 0 {
				g.endOnce()
			}
			return
		}
	}
}

// endOnce may be reached twice, when a call that comes too late finds the count at zero again.
func (g *guard) endOnce() {
	if g.state.CompareAndSwap(guardClosed, guardEnded) && g.end != nil {
		g.end()
	}
}

func closedError(op, what string) error {
	return &Error{Op: op, Status: ErrState, Message: "the " + what + " is closed"}
}
