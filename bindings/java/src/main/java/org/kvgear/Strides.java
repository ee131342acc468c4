package org.kvgear;

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
}
