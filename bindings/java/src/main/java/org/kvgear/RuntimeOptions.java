package org.kvgear;

import java.util.Objects;
import org.kvgear.internal.Struct;
import org.kvgear.internal.Structs.KvgRuntimeOptions;

/**
 * What a runtime is to have. {@link #DEFAULT} is the CPU, the caller's thread alone and no budget.
 *
 * <p>The allocator tables of the C interface are left out on purpose: they would call Java for every allocation, from threads that are not
 * Java's. The memory budget bounds the memory.
 *
 * @param device where memory lies and work is done; never changed in silence
 * @param deviceId ordinal of the device, 0 for the CPU
 * @param threads worker threads beside the caller's, 0 to 1024
 * @param memoryBudget most bytes that all caches together may hold; 0 = no limit
 */
public record RuntimeOptions(Device device, int deviceId, int threads, long memoryBudget) {
  /** The CPU, no worker threads, no budget. */
  public static final RuntimeOptions DEFAULT = new RuntimeOptions(Device.CPU, 0, 0, 0);

  /**
   * Options.
   *
   * @param device where memory lies
   * @param deviceId its ordinal
   * @param threads worker threads beside the caller's
   * @param memoryBudget bytes, or 0
   */
  public RuntimeOptions {
    Objects.requireNonNull(device, "device");
  }

  /**
   * The same options with another device.
   *
   * @param device the kind of device
   * @param deviceId its ordinal
   * @return the options
   */
  public RuntimeOptions withDevice(Device device, int deviceId) {
    return new RuntimeOptions(device, deviceId, threads, memoryBudget);
  }

  /**
   * The same options with another number of worker threads.
   *
   * @param threads worker threads beside the caller's
   * @return the options
   */
  public RuntimeOptions withThreads(int threads) {
    return new RuntimeOptions(device, deviceId, threads, memoryBudget);
  }

  /**
   * The same options with another budget.
   *
   * @param bytes most bytes that all caches together may hold; 0 = no limit
   * @return the options
   */
  public RuntimeOptions withMemoryBudget(long bytes) {
    return new RuntimeOptions(device, deviceId, threads, bytes);
  }

  byte[] pack() {
    byte[] s = Struct.make(KvgRuntimeOptions.SIZE);
    Struct.putInt(s, KvgRuntimeOptions.DEVICE, device.code());
    Struct.putInt(s, KvgRuntimeOptions.DEVICE_ID, deviceId);
    Struct.putInt(s, KvgRuntimeOptions.THREADS, threads);
    Struct.putLong(s, KvgRuntimeOptions.MEMORY_BUDGET, memoryBudget);
    return s;
  }
}
