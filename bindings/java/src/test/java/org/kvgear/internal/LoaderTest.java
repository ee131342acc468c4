package org.kvgear.internal;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.kvgear.KvgException;
import org.kvgear.KvgLibrary;
import org.kvgear.Status;

/** Parts of the search for the library; LibraryTest sees all of it, in programs of their own. */
class LoaderTest {
  @TempDir Path folder;

  @Test
  void explicitPathsComeFirst() {
    Map<String, String> none = Map.of();
    Map<String, String> property = Map.of("kvgear.library", "/a");
    Map<String, String> variable = Map.of("KVGEAR_LIBRARY", "/b");
    assertEquals("/a", Loader.explicit(property::get, variable::get));
    assertEquals("/b", Loader.explicit(none::get, variable::get));
    assertEquals("/b", Loader.explicit(Map.of("kvgear.library", "")::get, variable::get));
    assertNull(Loader.explicit(none::get, none::get));
  }

  @Test
  void besideTheJar() throws IOException {
    List<String> names = List.of("libkvgear.so.0", "libkvgear.so");
    assertEquals(List.of(), Loader.beside(null, names));
    assertEquals(List.of(), Loader.beside(folder, names));
    Files.createFile(folder.resolve("libkvgear.so"));
    Files.createFile(folder.resolve("libkvgear.so.0"));
    assertEquals(List.of(folder + "/libkvgear.so.0", folder + "/libkvgear.so"), Loader.beside(folder, names));
  }

  @Test
  void platforms() {
    assertEquals("linux/x86_64", Loader.platform("Linux", "amd64"));
    assertEquals("linux/aarch64", Loader.platform("Linux", "aarch64"));
    assertEquals("mac/aarch64", Loader.platform("Mac OS X", "arm64"));
    assertEquals("windows/x86_64", Loader.platform("Windows 11", "amd64"));
  }

  @Test
  void abiRange() {
    Loader.check("x", 2, 4, 2);
    Loader.check("x", 2, 4, 4);
    refuses(2, 4, 1, "lib serves ABI versions 2 to 4, and this package needs 1: use a newer version of this package");
    refuses(2, 4, 5, "install a newer libkvgear");
    refuses(-1, -1, 1, "no libkvgear");
  }

  private static void refuses(long oldest, long newest, long own, String words) {
    KvgException e = assertThrows(KvgException.class, () -> Loader.check("lib", oldest, newest, own));
    assertEquals(Status.UNSUPPORTED, e.status());
    assertTrue(e.detail().contains(words), e.detail());
  }

  @Test
  void extractsByContent() throws IOException {
    byte[] one = {1, 2, 3};
    byte[] other = {3, 2, 1};
    Path home = folder.resolve("home");
    Path file = Loader.extract(one, "lib.so", "", () -> home);
    assertEquals(home.resolve("039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81/lib.so"), file);
    assertArrayEquals(one, Files.readAllBytes(file));
    Object first = Files.getAttribute(file, "unix:ino");
    assertEquals(file, Loader.extract(one, "lib.so", "", () -> home));
    assertEquals(first, Files.getAttribute(file, "unix:ino"), "a file that is there is used");
    Files.write(file, other); // somebody spoilt it
    assertArrayEquals(one, Files.readAllBytes(Loader.extract(one, "lib.so", "", () -> home)));
    assertTrue(!file.equals(Loader.extract(other, "lib.so", "", () -> home)));
    assertTrue(Loader.extract(one, "lib.so", folder + "/chosen", () -> home).startsWith(folder.resolve("chosen")));
    try (Stream<Path> all = Files.walk(folder)) {
      assertTrue(all.noneMatch(p -> p.toString().endsWith(".part")), "a temporary file is left");
    }
  }

  @Test
  void extractsElsewhereWithoutAHome() throws IOException {
    Path blocked = Files.createFile(folder.resolve("file")); // no folder can be made in it, not even by root
    Path file = Loader.extract(new byte[] {1}, "lib.so", "", () -> blocked.resolve("home"));
    assertArrayEquals(new byte[] {1}, Files.readAllBytes(file));
    assertTrue(!file.startsWith(folder));
    assertThrows(IOException.class, () -> Loader.extract(new byte[] {1}, "lib.so", blocked + "/chosen", () -> folder));
  }

  @Test
  void manyExtractAtOnce() throws IOException {
    byte[] content = new byte[1 << 20];
    content[12345] = 1;
    Map<Path, Boolean> files = new ConcurrentHashMap<>();
    IntStream.range(0, 64).parallel().forEach(i -> {
      try {
        Path file = Loader.extract(content, "lib.so", folder.toString(), () -> folder);
        files.put(file, true);
        assertArrayEquals(content, Files.readAllBytes(file));
      } catch (IOException e) {
        throw new AssertionError(e);
      }
    });
    assertEquals(1, files.size());
  }

  @Test
  void anotherLibraryIsRefused() throws IOException {
    KvgLibrary.load(Path.of(KvgLibrary.path())); // the same file
    KvgException e = assertThrows(KvgException.class, () -> KvgLibrary.load(Files.createFile(folder.resolve("other.so"))));
    assertEquals(Status.STATE, e.status());
    assertTrue(e.detail().contains("in use already"), e.detail());
  }
}
