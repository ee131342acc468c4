package org.kvgear;

import java.util.Objects;
import org.kvgear.internal.Struct;
import org.kvgear.internal.Structs.KvgAttendDesc;

/**
 * What {@link KvgCache#attend} is to compute. {@link #DEFAULT} is causal attention with the usual scale.
 *
 * @param queries query i belongs to the token at length - queries + i; 0 = as many as q holds, contiguous
 * @param nonCausal whether a query sees all tokens, not only its own and older ones
 * @param scale factor on q . k; 0 = 1 / sqrt(head_dim)
 * @param logitSoftcap c &gt; 0: logits become c * tanh(logit / c); 0 = none
 * @param slidingWindow w &gt; 0: a query sees no token w or more before its own; 0 = none
 * @param q how the queries lie in memory; the directions of a head one behind the other
 * @param out how the results do, likewise
 * @param latentOut whether, where values are latent, results are [queries, q_heads, rank]: see {@link KvgPlan#load}
 * @param stream device runtimes: the stream to work on, a cudaStream_t; 0 on the CPU
 */
public record AttendOptions(
    int queries, boolean nonCausal, float scale, float logitSoftcap, long slidingWindow, Strides q, Strides out, boolean latentOut, long stream) {
  /** Causal attention of as many queries as q holds, with the usual scale. */
  public static final AttendOptions DEFAULT =
      new AttendOptions(0, false, 0, 0, 0, Strides.CONTIGUOUS, Strides.CONTIGUOUS, false, 0);

  /**
   * Options; strides of directions other than 1 (or 0, for contiguous) are refused.
   *
   * @param queries how many, or 0
   * @param nonCausal whether a query sees all tokens
   * @param scale factor on q . k, or 0
   * @param logitSoftcap the cap, or 0
   * @param slidingWindow tokens, or 0
   * @param q strides of the queries
   * @param out strides of the results
   * @param latentOut whether results are latents
   * @param stream the stream, or 0
   */
  public AttendOptions {
    for (Strides s : new Strides[] {Objects.requireNonNull(q, "q"), Objects.requireNonNull(out, "out")}) {
      if (s.dim() != 1 && !s.equals(Strides.CONTIGUOUS)) {
        throw KvgException.invalid("kvg_cache_attend", "the directions of a head of q and out must lie one behind the other");
      }
    }
  }

  /**
   * The same with a number of queries.
   *
   * @param queries how many
   * @return the options
   */
  public AttendOptions withQueries(int queries) {
    return new AttendOptions(queries, nonCausal, scale, logitSoftcap, slidingWindow, q, out, latentOut, stream);
  }

  /**
   * The same with or without the causal mask.
   *
   * @param nonCausal whether a query sees all tokens
   * @return the options
   */
  public AttendOptions withNonCausal(boolean nonCausal) {
    return new AttendOptions(queries, nonCausal, scale, logitSoftcap, slidingWindow, q, out, latentOut, stream);
  }

  /**
   * The same with a scale.
   *
   * @param scale factor on q . k
   * @return the options
   */
  public AttendOptions withScale(float scale) {
    return new AttendOptions(queries, nonCausal, scale, logitSoftcap, slidingWindow, q, out, latentOut, stream);
  }

  /**
   * The same with a cap on logits.
   *
   * @param logitSoftcap the cap, or 0
   * @return the options
   */
  public AttendOptions withLogitSoftcap(float logitSoftcap) {
    return new AttendOptions(queries, nonCausal, scale, logitSoftcap, slidingWindow, q, out, latentOut, stream);
  }

  /**
   * The same with a sliding window.
   *
   * @param slidingWindow tokens, or 0
   * @return the options
   */
  public AttendOptions withSlidingWindow(long slidingWindow) {
    return new AttendOptions(queries, nonCausal, scale, logitSoftcap, slidingWindow, q, out, latentOut, stream);
  }

  /**
   * The same with strides.
   *
   * @param q how the queries lie in memory
   * @param out how the results do
   * @return the options
   */
  public AttendOptions withStrides(Strides q, Strides out) {
    return new AttendOptions(queries, nonCausal, scale, logitSoftcap, slidingWindow, q, out, latentOut, stream);
  }

  /**
   * The same with results that are latents, where values are.
   *
   * @param latentOut whether to
   * @return the options
   */
  public AttendOptions withLatentOut(boolean latentOut) {
    return new AttendOptions(queries, nonCausal, scale, logitSoftcap, slidingWindow, q, out, latentOut, stream);
  }

  /**
   * The same on a stream.
   *
   * @param stream a cudaStream_t
   * @return the options
   */
  public AttendOptions withStream(long stream) {
    return new AttendOptions(queries, nonCausal, scale, logitSoftcap, slidingWindow, q, out, latentOut, stream);
  }

  byte[] pack(DType qType, DType outType, int count) {
    byte[] s = Struct.make(KvgAttendDesc.SIZE);
    Struct.putInt(s, KvgAttendDesc.Q_DTYPE, qType.code());
    Struct.putInt(s, KvgAttendDesc.OUT_DTYPE, outType.code());
    Struct.putInt(s, KvgAttendDesc.QUERIES, count);
    Struct.putInt(s, KvgAttendDesc.NON_CAUSAL, nonCausal ? 1 : 0);
    Struct.putFloat(s, KvgAttendDesc.SCALE, scale);
    Struct.putFloat(s, KvgAttendDesc.LOGIT_SOFTCAP, logitSoftcap);
    Struct.putLong(s, KvgAttendDesc.SLIDING_WINDOW, slidingWindow);
    Struct.putLong(s, KvgAttendDesc.Q_TOKEN_STRIDE, q.token());
    Struct.putLong(s, KvgAttendDesc.Q_HEAD_STRIDE, q.head());
    Struct.putLong(s, KvgAttendDesc.OUT_TOKEN_STRIDE, out.token());
    Struct.putLong(s, KvgAttendDesc.OUT_HEAD_STRIDE, out.head());
    Struct.putInt(s, KvgAttendDesc.LATENT_OUT, latentOut ? 1 : 0);
    Struct.putLong(s, KvgAttendDesc.STREAM, stream);
    return s;
  }
}
