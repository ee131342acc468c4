package org.kvgear;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.ShortBuffer;
import java.util.Objects;
import java.util.function.BooleanSupplier;
import org.kvgear.internal.Loader;
import org.kvgear.internal.Natives;
import org.kvgear.internal.RawConstants;

/**
 * Memory outside of Java's heap with its element type: what lies between position and limit of a direct buffer when the tensor is
 * made. It refers to that memory, and nothing is copied; the tensor keeps the buffer from becoming garbage. It costs next to
 * nothing to make, but may be kept and used again.
 *
 * <p>Several threads may use a tensor at once. While a call reads or writes its memory nothing else may write to it.
 *
 * <p>From Java 22 on {@link Segments} makes tensors of memory segments.
 */
public final class Tensor {
  private static final String OPERATION = "tensor";

  private final DType dtype;
  private final long address;
  private final long bytes;
  private final boolean readOnly;
  private final Object owner; // keeps the memory alive
  private final BooleanSupplier usable; // null: always

  Tensor(DType dtype, long address, long bytes, boolean readOnly, Object owner, BooleanSupplier usable) {
    this.dtype = dtype;
    this.address = address;
    this.bytes = bytes;
    this.readOnly = readOnly;
    this.owner = owner;
    this.usable = usable;
  }

  private static Tensor of(DType dtype, Buffer buffer, int size, ByteOrder order) {
    Objects.requireNonNull(dtype, "dtype");
    if (!buffer.isDirect()) {
      throw KvgException.invalid(OPERATION, "the buffer is on Java's heap; make it by ByteBuffer.allocateDirect");
    }
    if (order != ByteOrder.nativeOrder()) {
      throw KvgException.invalid(OPERATION, "the buffer has another byte order than the machine; see ByteBuffer.order");
    }
    Loader.load();
    long address = Natives.address(buffer) + (long) buffer.position() * size;
    return new Tensor(dtype, address, (long) buffer.remaining() * size, buffer.isReadOnly(), buffer, null);
  }

  /**
   * A tensor of IEEE binary32.
   *
   * @param buffer a direct buffer in the machine's byte order
   * @return the tensor
   */
  public static Tensor f32(FloatBuffer buffer) {
    return of(DType.F32, buffer, Float.BYTES, buffer.order());
  }

  /**
   * A tensor of IEEE binary16, given by its bits.
   *
   * @param buffer a direct buffer in the machine's byte order
   * @return the tensor
   */
  public static Tensor f16(ShortBuffer buffer) {
    return of(DType.F16, buffer, Short.BYTES, buffer.order());
  }

  /**
   * A tensor of bfloat16, given by its bits.
   *
   * @param buffer a direct buffer in the machine's byte order
   * @return the tensor
   */
  public static Tensor bf16(ShortBuffer buffer) {
    return of(DType.BF16, buffer, Short.BYTES, buffer.order());
  }

  /**
   * A tensor whose bytes are in the machine's order, as in a file that is mapped.
   *
   * @param dtype its element type
   * @param buffer a direct buffer; the order that it is set to does not matter
   * @return the tensor
   */
  public static Tensor of(DType dtype, ByteBuffer buffer) {
    return of(dtype, buffer, 1, ByteOrder.nativeOrder());
  }

  /**
   * A tensor of memory that is not Java's, such as that of a CUDA device. It must stay until the calls that it goes to are over, and the
   * work that they gave to a stream.
   *
   * @param dtype its element type
   * @param address where it begins
   * @param elements how many
   * @param owner what keeps the memory, if anything does: it is not garbage as long as the tensor is not
   * @return the tensor
   */
  public static Tensor memory(DType dtype, long address, long elements, Object owner) {
    int size = dtype == DType.F32 ? Float.BYTES : Short.BYTES;
    return new Tensor(dtype, address, Math.multiplyExact(elements, size), false, owner, null);
  }

  /**
   * A tensor of a float buffer that is filled with values, for tests and small inputs: the only way here that copies.
   *
   * @param values the values
   * @return a tensor of memory of its own
   */
  public static Tensor copyOf(float... values) {
    FloatBuffer buffer = ByteBuffer.allocateDirect(Math.multiplyExact(values.length, Float.BYTES)).order(ByteOrder.nativeOrder()).asFloatBuffer();
    buffer.put(0, values);
    return f32(buffer);
  }

  /**
   * The element type.
   *
   * @return the type
   */
  public DType dtype() {
    return dtype;
  }

  /**
   * The number of elements.
   *
   * @return the number
   */
  public long length() {
    return bytes / (dtype == DType.F32 ? Float.BYTES : Short.BYTES);
  }

  /** The bytes of the memory. */
  long bytes() {
    return bytes;
  }

  /** Where the memory begins, for a call that reads it. The caller keeps the tensor reachable until its call is over. */
  long address(String operation) {
    if (usable != null && !usable.getAsBoolean()) {
      throw new KvgException(
          operation, RawConstants.KVG_E_STATE, "the arena of a memory segment is closed, or belongs to another thread");
    }
    return address;
  }

  /** As {@link #address}, for a call that writes. */
  long writable(String operation) {
    if (readOnly) {
      throw KvgException.invalid(operation, "the memory for the result is read-only");
    }
    return address(operation);
  }

  @Override
  public String toString() {
    return "Tensor[" + length() + " " + dtype + " of " + owner + "]";
  }
}
