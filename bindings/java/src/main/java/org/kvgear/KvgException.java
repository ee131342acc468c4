package org.kvgear;

import org.kvgear.internal.RawConstants;

/** A call that failed. It has changed nothing. */
public final class KvgException extends RuntimeException {
  private static final long serialVersionUID = 1;

  /** The function of the C interface. */
  private final String operation;

  /** The status in C. */
  private final int code;

  /** The sentence. */
  private final String detail;

  /**
   * A failure.
   *
   * @param operation the function of the C interface that failed, such as "kvg_cache_attend"
   * @param code its status
   * @param detail the sentence that says what is wrong, and what to change
   */
  public KvgException(String operation, int code, String detail) {
    super(operation + ": " + detail);
    this.operation = operation;
    this.code = code;
    this.detail = detail;
  }

  static KvgException invalid(String operation, String detail) {
    return new KvgException(operation, RawConstants.KVG_E_INVALID, detail);
  }

  /**
   * The function of the C interface that failed, such as "kvg_cache_attend"; "load" when the library could not be loaded.
   *
   * @return its name
   */
  public String operation() {
    return operation;
  }

  /**
   * What kind of failure it is.
   *
   * @return the status, never {@link Status#OK}
   */
  public Status status() {
    return Status.of(code);
  }

  /**
   * The number of the status, also where it is {@link Status#UNKNOWN}.
   *
   * @return the number
   */
  public int code() {
    return code;
  }

  /**
   * What is wrong, and what to change.
   *
   * @return one sentence, without the operation
   */
  public String detail() {
    return detail;
  }
}
