package org.kvgear;

import java.nio.file.Path;
import org.kvgear.internal.Loader;
import org.kvgear.internal.Raw;

/**
 * The native library, libkvgear. It is loaded by the first call that needs it, and looked for
 *
 * <ol>
 *   <li>at the path in the system property {@code kvgear.library}, and nowhere else if that is set;
 *   <li>at the path in the environment variable {@code KVGEAR_LIBRARY}, and nowhere else if that is set;
 *   <li>beside the jar of this package, then inside the jar;
 *   <li>where the system looks for libraries.
 * </ol>
 *
 * <p>{@link #load(Path)} comes before all of these. What is inside the jar is extracted to a folder that is named by its content,
 * in {@code ~/.cache/kvgear} or where the system property {@code kvgear.cache} says. A library that does not serve the ABI
 * version of this package is refused with {@link Status#UNSUPPORTED}, one that cannot be found with {@link Status#IO}; the
 * next call tries again.
 *
 * <p>The wrapper between Java and the library, {@code libkvgear_jni.so}, belongs to this package and is looked for at the path
 * in the system property {@code kvgear.jni}, beside the jar, inside the jar, and in {@code java.library.path}.
 */
public final class KvgLibrary {
  /** Loads the library, unless one is in use already. */
  public static void load() {
    Loader.load();
  }

  /**
   * Loads the library at a path and looks nowhere else. Fails with {@link Status#STATE} if another is in use already, so call
   * it before anything else of this package.
   *
   * @param path the file
   */
  public static void load(Path path) {
    Loader.load(path);
  }

  /**
   * Where the library was loaded from, after loading it if need be.
   *
   * @return its path, or its name alone if the system found it
   */
  public static String path() {
    Loader.load();
    return Loader.loadedFrom();
  }

  /**
   * The version of the library.
   *
   * <p>From kvgear.h, kvg_version_string:
   * <pre>
   * Returns "major.minor.patch", a static string.
   * </pre>
   *
   * @return the version
   */
  public static String version() {
    Loader.load();
    return Raw.kvg_version_string();
  }

  /**
   * The newest version of the binary interface that the library serves.
   *
   * <p>From kvgear.h, kvg_abi_version:
   * <pre>
   * Returns the newest ABI version the library serves.
   * </pre>
   *
   * @return the version
   */
  public static int abiVersion() {
    Loader.load();
    return Raw.kvg_abi_version();
  }

  /**
   * The oldest version of the binary interface that the library serves.
   *
   * <p>From kvgear.h, kvg_abi_min:
   * <pre>
   * Returns the oldest ABI version the library still serves.
   * </pre>
   *
   * @return the version
   */
  public static int abiMin() {
    Loader.load();
    return Raw.kvg_abi_min();
  }

  /**
   * The name that the library has for the number of a status.
   *
   * <p>From kvgear.h, kvg_status_string:
   * <pre>
   * Returns the name of a status, such as "KVG_E_INVALID"; a static string, never NULL.
   * </pre>
   *
   * @param code the number
   * @return the name
   */
  public static String statusName(int code) {
    Loader.load();
    return Raw.kvg_status_string(code);
  }

  private KvgLibrary() {}
}
