package org.kvgear.internal;

import java.io.IOException;
import java.io.InputStream;
import java.net.URISyntaxException;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.CodeSource;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.function.UnaryOperator;
import org.kvgear.KvgException;

/**
 * Finds and loads two libraries: libkvgear, and the wrapper between it and Java. See {@link org.kvgear.KvgLibrary} for the order.
 * A failure is not remembered: the next call tries again.
 */
public final class Loader {
  private static final String WRAPPER = "libkvgear_jni.so";
  private static final List<String> NAMES = List.of("libkvgear.so.0", "libkvgear.so"); // the number is that of the soname
  private static final String OPERATION = "load";

  private static volatile String loaded; // where libkvgear came from
  private static boolean wrapperLoaded;

  /** Loads the library, unless one is in use already. */
  public static void load() {
    if (loaded == null) {
      search();
    }
  }

  /**
   * Where the library in use was loaded from.
   *
   * @return the path, or the name that the system found it by; null when none is loaded yet
   */
  public static String loadedFrom() {
    return loaded;
  }

  /**
   * Loads the library at a path and looks nowhere else.
   *
   * @param path the file
   */
  public static synchronized void load(Path path) {
    String now = path.toAbsolutePath().toString();
    if (loaded == null) {
      open(now);
    } else if (!sameFile(loaded, path)) {
      throw failure(RawConstants.KVG_E_STATE, "the library " + loaded + " is in use already; choose another before its first use");
    }
  }

  private static boolean sameFile(String loaded, Path path) {
    try {
      return Files.isSameFile(Path.of(loaded), path);
    } catch (IOException e) {
      return false;
    }
  }

  private static synchronized void search() {
    if (loaded != null) {
      return;
    }
    String explicit = explicit(System::getProperty, System::getenv);
    if (explicit != null) {
      open(explicit);
      return;
    }
    List<String> tried = new ArrayList<>();
    for (String path : candidates(packageFolder(), tried)) {
      try {
        open(path);
        return;
      } catch (KvgException e) {
        if (e.code() != RawConstants.KVG_E_IO) {
          throw e;
        }
        tried.add(path + ": " + e.detail());
      }
    }
    throw failure(
        RawConstants.KVG_E_IO,
        "libkvgear was not found; set the system property kvgear.library or the environment variable KVGEAR_LIBRARY to its path. Tried: "
            + String.join("; ", tried));
  }

  /** The path that the user has set; nothing else is tried then. */
  static String explicit(UnaryOperator<String> properties, UnaryOperator<String> environment) {
    for (String path : Arrays.asList(properties.apply("kvgear.library"), environment.apply("KVGEAR_LIBRARY"))) {
      if (path != null && !path.isEmpty()) {
        return path;
      }
    }
    return null;
  }

  /** Beside the jar, in the jar, then the names that the system knows. What is not there is left out. */
  private static List<String> candidates(Path folder, List<String> tried) {
    List<String> paths = new ArrayList<>(beside(folder, NAMES));
    String inside = inside(NAMES.get(0), tried);
    if (inside != null) {
      paths.add(inside);
    }
    paths.addAll(NAMES);
    return paths;
  }

  static List<String> beside(Path folder, List<String> names) {
    if (folder == null) {
      return List.of();
    }
    return names.stream().map(folder::resolve).filter(Files::isRegularFile).map(Path::toString).toList();
  }

  /** The folder of the jar; null when the classes come from elsewhere. */
  private static Path packageFolder() {
    CodeSource source = Loader.class.getProtectionDomain().getCodeSource();
    URL location = source == null ? null : source.getLocation();
    if (location == null || !"file".equals(location.getProtocol())) {
      return null;
    }
    try {
      return Path.of(location.toURI()).getParent();
    } catch (URISyntaxException | IllegalArgumentException e) {
      return null;
    }
  }

  private static void open(String path) {
    loadWrapper();
    long library = Natives.open((path + "\0").getBytes(StandardCharsets.UTF_8));
    try {
      check(path, Natives.abi(library, false), Natives.abi(library, true), RawConstants.KVG_ABI_VERSION);
      String missing = Natives.bind(library);
      if (missing != null) {
        throw failure(RawConstants.KVG_E_UNSUPPORTED, path + " has no function " + missing);
      }
    } catch (Throwable e) {
      Natives.close(library);
      throw e;
    }
    loaded = path;
  }

  /** The version comes before the functions: an older library lacks some, and the version says so better. */
  static void check(String path, long oldest, long newest, long own) {
    if (oldest < 0 || newest < 0) {
      throw failure(RawConstants.KVG_E_UNSUPPORTED, path + " is no libkvgear: it does not say which ABI versions it serves");
    }
    if (own < oldest || own > newest) {
      throw failure(
          RawConstants.KVG_E_UNSUPPORTED,
          String.format(
              Locale.ROOT,
              "%s serves ABI versions %d to %d, and this package needs %d: %s",
              path,
              oldest,
              newest,
              own,
              own > newest ? "install a newer libkvgear" : "use a newer version of this package"));
    }
  }

  private static void loadWrapper() {
    if (wrapperLoaded) {
      return;
    }
    try {
      String explicit = System.getProperty("kvgear.jni", "");
      List<String> tried = new ArrayList<>();
      List<String> beside = beside(packageFolder(), List.of(WRAPPER));
      String path = !explicit.isEmpty() ? explicit : !beside.isEmpty() ? beside.get(0) : inside(WRAPPER, tried);
      if (path != null) {
        System.load(Path.of(path).toAbsolutePath().toString());
      } else {
        try {
          System.loadLibrary("kvgear_jni");
        } catch (UnsatisfiedLinkError e) {
          tried.add(e.getMessage());
          throw new UnsatisfiedLinkError(String.join("; ", tried));
        }
      }
    } catch (UnsatisfiedLinkError e) {
      KvgException failure =
          failure(
              RawConstants.KVG_E_IO,
              WRAPPER + " of this package was not found or does not load; set the system property kvgear.jni to its path. " + e.getMessage());
      failure.initCause(e);
      throw failure;
    }
    wrapperLoaded = true;
  }

  /** A library of the jar as a file; null, with the reason in `tried`, when there is none for this machine or no place for it. */
  private static String inside(String name, List<String> tried) {
    String resource = "/org/kvgear/native/" + platform(System.getProperty("os.name"), System.getProperty("os.arch")) + "/" + name;
    try (InputStream in = Loader.class.getResourceAsStream(resource)) {
      if (in == null) {
        tried.add("the package has no " + resource);
        return null;
      }
      return extract(in.readAllBytes(), name, System.getProperty("kvgear.cache", ""), Loader::cacheHome).toString();
    } catch (IOException e) {
      tried.add(resource + " cannot be extracted; set the system property kvgear.cache to a folder that can be written: " + e);
      return null;
    }
  }

  static String platform(String os, String arch) {
    String system = os.toLowerCase(Locale.ROOT).replaceAll("[^a-z0-9]+.*", "");
    return system + "/" + switch (arch) {
      case "amd64", "x64", "x86-64" -> "x86_64";
      case "arm64" -> "aarch64";
      default -> arch;
    };
  }

  private static Path cacheHome() {
    String xdg = System.getenv("XDG_CACHE_HOME");
    boolean set = xdg != null && xdg.startsWith("/");
    return (set ? Path.of(xdg) : Path.of(System.getProperty("user.home"), ".cache")).resolve("kvgear");
  }

  interface Home {
    Path path();
  }

  /**
   * Puts a library into the folder that is named by its content, unless it is there. A temporary file that is moved at once makes
   * sure that other processes see all of it or nothing; the content of a file that is there is compared.
   */
  static Path extract(byte[] content, String name, String chosen, Home home) throws IOException {
    if (!chosen.isEmpty()) {
      return extractTo(Path.of(chosen), content, name);
    }
    try {
      return extractTo(home.path(), content, name);
    } catch (IOException | IllegalArgumentException e) { // no home, or one that cannot be written
      Path folder = Files.createTempDirectory("kvgear-"); // of this user alone
      Path file = extractTo(folder, content, name);
      for (Path path : List.of(folder, file.getParent(), file)) { // the last goes first
        path.toFile().deleteOnExit();
      }
      return file;
    }
  }

  private static Path extractTo(Path root, byte[] content, String name) throws IOException {
    Path folder = root.toAbsolutePath().resolve(hash(content));
    Path file = folder.resolve(name);
    if (Files.isRegularFile(file) && Files.size(file) == content.length && Arrays.equals(Files.readAllBytes(file), content)) {
      return file;
    }
    Files.createDirectories(folder);
    Path part = Files.createTempFile(folder, name, ".part");
    try {
      Files.write(part, content);
      Files.move(part, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    } finally {
      Files.deleteIfExists(part);
    }
    return file;
  }

  private static String hash(byte[] content) {
    try {
      return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content));
    } catch (NoSuchAlgorithmException e) {
      throw new AssertionError(e); // every Java has it
    }
  }

  private static KvgException failure(int code, String message) {
    return new KvgException(OPERATION, code, message);
  }

  private Loader() {}
}
