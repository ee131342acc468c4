package org.kvgear;

import java.nio.ByteBuffer;
import org.kvgear.internal.Natives;

/**
 * What lies between position and limit of a buffer, for a call that reads or writes it. Memory on Java's heap is copied.
 *
 * @param owner must stay reachable until the call is over
 * @param address where it begins
 * @param bytes how long it is
 */
record Memory(ByteBuffer owner, long address, long bytes) {
  static final Memory NONE = new Memory(null, 0, 0);

  /** For a call that reads. */
  static Memory of(ByteBuffer buffer) {
    if (buffer.isDirect()) {
      return at(buffer);
    }
    return at(ByteBuffer.allocateDirect(buffer.remaining()).put(buffer.duplicate()).flip());
  }

  static Memory of(byte[] bytes) {
    return bytes.length == 0 ? NONE : of(ByteBuffer.wrap(bytes));
  }

  private static Memory at(ByteBuffer direct) {
    return new Memory(direct, Natives.address(direct) + direct.position(), direct.remaining());
  }
}
