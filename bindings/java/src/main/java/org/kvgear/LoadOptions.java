package org.kvgear;

import org.kvgear.internal.Struct;
import org.kvgear.internal.Structs.KvgLoadDesc;

/**
 * How a saved cache is loaded. {@link #DEFAULT} reads and checks all of it.
 *
 * <p>From kvgear.h, kvg_load_desc:
 * <pre>
 * How a saved cache is to be loaded.
 * </pre>
 *
 * @param map files: whether sealed segments stay in the file, which must neither be changed nor cut while a cache uses it
 * @param trust with map: whether to read only tables and windows; a damaged or forged file can then end the process
 * @param fingerprint the one that was saved; empty for none
 */
public record LoadOptions(boolean map, boolean trust, byte[] fingerprint) {
  /** All of it is read and checked; there is no fingerprint. */
  public static final LoadOptions DEFAULT = new LoadOptions(false, false, new byte[0]);

  /**
   * Options.
   *
   * @param map whether to use a file in its place
   * @param trust whether to trust it
   * @param fingerprint of the model; copied
   */
  public LoadOptions {
    fingerprint = fingerprint.clone();
  }

  /**
   * The fingerprint.
   *
   * @return a copy of it
   */
  @Override
  public byte[] fingerprint() {
    return fingerprint.clone();
  }

  /**
   * The same with or without using the file in its place.
   *
   * @param map whether to
   * @return the options
   */
  public LoadOptions withMap(boolean map) {
    return new LoadOptions(map, trust, fingerprint);
  }

  /**
   * The same with or without trust in a file that is mapped.
   *
   * @param trust whether to trust it
   * @return the options
   */
  public LoadOptions withTrust(boolean trust) {
    return new LoadOptions(map, trust, fingerprint);
  }

  /**
   * The same with a fingerprint.
   *
   * @param fingerprint the one that was saved
   * @return the options
   */
  public LoadOptions withFingerprint(byte[] fingerprint) {
    return new LoadOptions(map, trust, fingerprint);
  }

  Packed pack() {
    byte[] s = Struct.make(KvgLoadDesc.SIZE);
    Memory memory = Memory.of(fingerprint);
    Struct.putInt(s, KvgLoadDesc.MAP, map ? 1 : 0);
    Struct.putInt(s, KvgLoadDesc.TRUST, trust ? 1 : 0);
    Struct.putLong(s, KvgLoadDesc.FINGERPRINT, memory.address());
    Struct.putLong(s, KvgLoadDesc.FINGERPRINT_BYTES, memory.bytes());
    return new Packed(s, memory);
  }
}
