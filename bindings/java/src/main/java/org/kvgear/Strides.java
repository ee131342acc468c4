package org.kvgear;

import org.kvgear.internal.Struct;
import org.kvgear.internal.Structs.KvgAppendDesc;

/**
 * Strides of a tensor in elements, as in DLPack; they may be negative.
 *
 * @param token elements from one token to the next
 * @param head elements from one head to the next
 * @param dim elements from one direction to the next; always 1 for queries and results
 */
public record Strides(long token, long head, long dim) {
  /** All 0, which stands for a contiguous tensor. */
  public static final Strides CONTIGUOUS = new Strides(0, 0, 0);

  /**
   * Strides of rows whose directions lie one behind the other.
   *
   * @param token elements from one token to the next
   * @param head elements from one head to the next
   * @return the strides
   */
  public static Strides of(long token, long head) {
    return new Strides(token, head, 1);
  }

  /** kvg_append_desc. */
  static byte[] pack(DType dtype, long tokens, Strides k, Strides v) {
    byte[] s = Struct.make(KvgAppendDesc.SIZE);
    Struct.putInt(s, KvgAppendDesc.DTYPE, dtype.code());
    Struct.putLong(s, KvgAppendDesc.TOKENS, tokens);
    Struct.putLong(s, KvgAppendDesc.K_TOKEN_STRIDE, k.token());
    Struct.putLong(s, KvgAppendDesc.K_HEAD_STRIDE, k.head());
    Struct.putLong(s, KvgAppendDesc.K_DIM_STRIDE, k.dim());
    Struct.putLong(s, KvgAppendDesc.V_TOKEN_STRIDE, v.token());
    Struct.putLong(s, KvgAppendDesc.V_HEAD_STRIDE, v.head());
    Struct.putLong(s, KvgAppendDesc.V_DIM_STRIDE, v.dim());
    return s;
  }
}
