package org.kvgear.internal;

import java.util.concurrent.atomic.AtomicLong;
import java.util.function.LongConsumer;
import org.kvgear.KvgException;

/**
 * A handle of C's. Counts the calls that use it, and ends it once it is closed and the last call is over; so it may be closed at
 * any time, also by a {@link java.lang.ref.Cleaner} whose object becomes garbage during its last call.
 */
public final class Handle implements Runnable {
  private static final long CLOSED = 1L << 62; // the lower bits count calls
  private static final long ENDED = CLOSED | 1L << 61;

  private final AtomicLong state = new AtomicLong();
  private final long pointer;
  private final String what;
  private final LongConsumer end;

  /**
   * A handle that is open.
   *
   * @param what its name in messages
   * @param pointer the handle in C
   * @param end ends it; must not refer to the object that a Cleaner watches
   */
  public Handle(String what, long pointer, LongConsumer end) {
    this.what = what;
    this.pointer = pointer;
    this.end = end;
  }

  /**
   * The handle in C, which may have ended.
   *
   * @return its address
   */
  public long pointer() {
    return pointer;
  }

  /**
   * Begins a call, which {@link #leave} must end.
   *
   * @param operation the call, for the message
   * @return the handle in C
   */
  public long enter(String operation) {
    if ((state.getAndIncrement() & CLOSED) == 0) {
      return pointer;
    }
    leave();
    throw new KvgException(operation, RawConstants.KVG_E_STATE, "the " + what + " is closed");
  }

  /** Ends a call. */
  public void leave() {
    if (state.decrementAndGet() == CLOSED) {
      endOnce();
    }
  }

  /** Forbids further calls. Only the first time has an effect. */
  @Override
  public void run() {
    while (true) {
      long old = state.get();
      if ((old & CLOSED) != 0) {
        return;
      }
      if (state.compareAndSet(old, old | CLOSED)) {
        if (old == 0) {
          endOnce();
        }
        return;
      }
    }
  }

  /** May be reached twice, when a call that comes too late finds the count at zero again. */
  private void endOnce() {
    if (state.compareAndSet(CLOSED, ENDED)) {
      end.accept(pointer);
    }
  }
}
