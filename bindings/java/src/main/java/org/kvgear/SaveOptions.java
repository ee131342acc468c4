package org.kvgear;

import org.kvgear.internal.Struct;
import org.kvgear.internal.Structs.KvgSaveDesc;

/**
 * What of a cache is saved, and how. {@link #DEFAULT} is everything.
 *
 * <p>From kvgear.h, kvg_save_desc:
 * <pre>
 * What is to be saved.
 * </pre>
 *
 * @param firstLayer the first layer
 * @param layers how many; 0 = all from the first on
 * @param firstToken the first token, where an exact cut is possible: see {@link KvgCache#truncate}
 * @param tokens how many; 0 = all from the first on; the end is an exact cut too
 * @param noSync files: whether not to wait until the disk has it; a loss of power may cost it then
 * @param fingerprint what tells this model from others of its shape, at most 256 bytes; empty for none
 */
public record SaveOptions(int firstLayer, int layers, long firstToken, long tokens, boolean noSync, byte[] fingerprint) {
  /** Everything, without a fingerprint. */
  public static final SaveOptions DEFAULT = new SaveOptions(0, 0, 0, 0, false, new byte[0]);

  /**
   * Options.
   *
   * @param firstLayer the first layer
   * @param layers how many, or 0
   * @param firstToken the first token
   * @param tokens how many, or 0
   * @param noSync whether not to wait for the disk
   * @param fingerprint of the model; copied
   */
  public SaveOptions {
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
   * The same of some layers.
   *
   * @param firstLayer the first
   * @param layers how many; 0 = all from the first on
   * @return the options
   */
  public SaveOptions withLayers(int firstLayer, int layers) {
    return new SaveOptions(firstLayer, layers, firstToken, tokens, noSync, fingerprint);
  }

  /**
   * The same of some tokens.
   *
   * @param firstToken the first
   * @param tokens how many; 0 = all from the first on
   * @return the options
   */
  public SaveOptions withTokens(long firstToken, long tokens) {
    return new SaveOptions(firstLayer, layers, firstToken, tokens, noSync, fingerprint);
  }

  /**
   * The same with or without waiting for the disk.
   *
   * @param noSync whether not to wait
   * @return the options
   */
  public SaveOptions withNoSync(boolean noSync) {
    return new SaveOptions(firstLayer, layers, firstToken, tokens, noSync, fingerprint);
  }

  /**
   * The same with a fingerprint.
   *
   * @param fingerprint what tells this model from others of its shape, at most 256 bytes
   * @return the options
   */
  public SaveOptions withFingerprint(byte[] fingerprint) {
    return new SaveOptions(firstLayer, layers, firstToken, tokens, noSync, fingerprint);
  }

  Packed pack() {
    byte[] s = Struct.make(KvgSaveDesc.SIZE);
    Memory memory = Memory.of(fingerprint);
    Struct.putInt(s, KvgSaveDesc.FIRST_LAYER, firstLayer);
    Struct.putInt(s, KvgSaveDesc.LAYERS, layers);
    Struct.putInt(s, KvgSaveDesc.NO_SYNC, noSync ? 1 : 0);
    Struct.putLong(s, KvgSaveDesc.FIRST_TOKEN, firstToken);
    Struct.putLong(s, KvgSaveDesc.TOKENS, tokens);
    Struct.putLong(s, KvgSaveDesc.FINGERPRINT, memory.address());
    Struct.putLong(s, KvgSaveDesc.FINGERPRINT_BYTES, memory.bytes());
    return new Packed(s, memory);
  }
}
