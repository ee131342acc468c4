package org.kvgear;

import java.util.Objects;
import org.kvgear.internal.Struct;
import org.kvgear.internal.Structs.KvgAppendDesc;

/**
 * How tokens that are appended lie in memory. {@link #DEFAULT} is contiguous.
 *
 * <p>From kvgear.h, kvg_append_desc:
 * <pre>
 * How the tensors given to kvg_cache_append lie in memory. Shapes are [tokens, kv_heads, head_dim];
 * strides are in elements, as in DLPack, and may be negative. When the three strides of a tensor
 * are all 0 it is contiguous in that order.
 * </pre>
 *
 * @param k how the keys lie in memory
 * @param v how the values do
 * @param stream device runtimes: the stream to work on, a cudaStream_t; 0 on the CPU
 */
public record AppendOptions(Strides k, Strides v, long stream) {
  /** Contiguous tensors, and no stream. */
  public static final AppendOptions DEFAULT = new AppendOptions(Strides.CONTIGUOUS, Strides.CONTIGUOUS, 0);

  /**
   * Options.
   *
   * @param k strides of the keys
   * @param v strides of the values
   * @param stream the stream, or 0
   */
  public AppendOptions {
    Objects.requireNonNull(k, "k");
    Objects.requireNonNull(v, "v");
  }

  /**
   * The same with strides.
   *
   * @param k how the keys lie in memory
   * @param v how the values do
   * @return the options
   */
  public AppendOptions withStrides(Strides k, Strides v) {
    return new AppendOptions(k, v, stream);
  }

  /**
   * The same on a stream.
   *
   * @param stream a cudaStream_t
   * @return the options
   */
  public AppendOptions withStream(long stream) {
    return new AppendOptions(k, v, stream);
  }

  byte[] pack(DType dtype, long tokens) {
    byte[] s = Struct.make(KvgAppendDesc.SIZE);
    Struct.putInt(s, KvgAppendDesc.DTYPE, dtype.code());
    Struct.putLong(s, KvgAppendDesc.TOKENS, tokens);
    Struct.putLong(s, KvgAppendDesc.K_TOKEN_STRIDE, k.token());
    Struct.putLong(s, KvgAppendDesc.K_HEAD_STRIDE, k.head());
    Struct.putLong(s, KvgAppendDesc.K_DIM_STRIDE, k.dim());
    Struct.putLong(s, KvgAppendDesc.V_TOKEN_STRIDE, v.token());
    Struct.putLong(s, KvgAppendDesc.V_HEAD_STRIDE, v.head());
    Struct.putLong(s, KvgAppendDesc.V_DIM_STRIDE, v.dim());
    Struct.putLong(s, KvgAppendDesc.STREAM, stream);
    return s;
  }
}
