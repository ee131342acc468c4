package org.kvgear;

import java.lang.foreign.MemorySegment;
import java.util.Objects;

/**
 * Tensors of memory segments, without a copy and of any length. Needs Java 22 or newer; on older versions the class cannot be
 * used, and the rest of the package does not need it.
 */
public final class Segments {
  /**
   * A tensor of the memory of a segment. Each call that uses it fails with {@link Status#STATE} once the segment's arena is closed, or
   * in a thread that may not use the segment. An arena that several threads share must not be closed while a call runs.
   *
   * @param dtype its element type, in the machine's byte order
   * @param segment a native or mapped segment
   * @return the tensor
   */
  public static Tensor tensor(DType dtype, MemorySegment segment) {
    Objects.requireNonNull(dtype, "dtype");
    if (!segment.isNative()) {
      throw KvgException.invalid("tensor", "the segment is on Java's heap; make it by Arena.allocate");
    }
    return new Tensor(
        dtype,
        segment.address(),
        segment.byteSize(),
        segment.isReadOnly(),
        segment,
        () -> segment.scope().isAlive() && segment.isAccessibleBy(Thread.currentThread()));
  }

  private Segments() {}
}
