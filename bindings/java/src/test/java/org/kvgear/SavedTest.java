package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.kvgear.Support.Q_ROW;
import static org.kvgear.Support.ROW;
import static org.kvgear.Support.assertFails;
import static org.kvgear.Support.copy;
import static org.kvgear.Support.fill;
import static org.kvgear.Support.floats;
import static org.kvgear.Support.open;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PipedInputStream;
import java.io.PipedOutputStream;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;

/** Saved caches: files, buffers, streams, and what goes wrong with them. */
@Timeout(120)
class SavedTest {
  private static final int TOKENS = 300;

  @TempDir Path folder;

  private static Support.Opened filled(String recipes, int tokens) {
    Support.Opened o = open(RuntimeOptions.DEFAULT, recipes);
    o.cache().append(0, Tensor.copyOf(fill(tokens * ROW, 1)), Tensor.copyOf(fill(tokens * ROW, 2)));
    return o;
  }

  private static byte[] bytes(KvgCache cache, SaveOptions options) {
    ByteBuffer buffer = ByteBuffer.allocate((int) cache.savedBytes(options));
    cache.save(buffer, options);
    assertEquals(0, buffer.remaining());
    return buffer.array();
  }

  /** What a cache answers with. */
  private static float[] content(KvgCache cache) {
    FloatBuffer all = floats(TOKENS * ROW + Q_ROW);
    cache.read(0, Side.K, 0, TOKENS, Tensor.f32(all.slice(0, TOKENS * ROW)));
    cache.attend(0, Tensor.copyOf(fill(Q_ROW, 7)), Tensor.f32(all.slice(TOKENS * ROW, Q_ROW)));
    return copy(all);
  }

  @Test
  void thereAndBack() throws IOException {
    try (var o = filled("gear-2", TOKENS)) {
      float[] want = content(o.cache());
      Path path = folder.resolve("cache.kvg");
      o.cache().save(path);
      byte[] data = Files.readAllBytes(path);
      o.cache().save(path, SaveOptions.DEFAULT.withNoSync(true));
      assertArrayEquals(data, Files.readAllBytes(path));
      ByteArrayOutputStream stream = new ByteArrayOutputStream();
      o.cache().save(stream, SaveOptions.DEFAULT);
      assertArrayEquals(data, stream.toByteArray());
      assertArrayEquals(data, bytes(o.cache(), SaveOptions.DEFAULT));
      ByteBuffer direct = ByteBuffer.allocateDirect(data.length + 12).position(5);
      o.cache().save(direct, SaveOptions.DEFAULT);
      assertEquals(7, direct.remaining()); // the position is behind what was written
      assertEquals(0, direct.get(4) | direct.get(data.length + 5));
      direct.flip().position(5);

      ByteArrayInputStream in = new ByteArrayInputStream(Arrays.copyOf(data, data.length + 3));
      InputStream trickle = new InputStream() {
        private int at;

        @Override
        public int read() {
          return at == data.length ? -1 : data[at++] & 255;
        }

        @Override
        public int read(byte[] to, int offset, int length) {
          if (at == data.length) {
            return -1;
          }
          to[offset] = data[at++];
          return 1;
        }
      };
      Map<String, KvgCache> loaded = new LinkedHashMap<>();
      loaded.put("file", o.runtime().loadCache(o.plan(), path));
      loaded.put("mapped", o.runtime().loadCache(o.plan(), path, LoadOptions.DEFAULT.withMap(true)));
      loaded.put("trusted", o.runtime().loadCache(o.plan(), path, LoadOptions.DEFAULT.withMap(true).withTrust(true)));
      loaded.put("direct", o.runtime().loadCache(o.plan(), direct, LoadOptions.DEFAULT));
      loaded.put("heap", o.runtime().loadCache(o.plan(), ByteBuffer.wrap(data).asReadOnlyBuffer(), LoadOptions.DEFAULT));
      loaded.put("stream", o.runtime().loadCache(o.plan(), in, LoadOptions.DEFAULT));
      loaded.put("trickle", o.runtime().loadCache(o.plan(), trickle, LoadOptions.DEFAULT));
      assertEquals(data.length, direct.remaining()); // a buffer that is loaded stays as it is
      assertEquals(3, in.available()); // a stream is not read beyond the cache
      loaded.forEach((name, back) -> {
        try (back) {
          assertArrayEquals(want, content(back), name);
          boolean mapped = name.equals("mapped") || name.equals("trusted");
          assertEquals(mapped, back.stats(KvgCache.ALL_LAYERS, Side.BOTH).bytesMapped() > 0, name);
          List<Executable> ways =
              List.of(
                  () -> back.extend(path, LoadOptions.DEFAULT),
                  () -> back.extend(direct, LoadOptions.DEFAULT),
                  () -> back.extend(ByteBuffer.wrap(data), LoadOptions.DEFAULT),
                  () -> back.extend(new ByteArrayInputStream(data), LoadOptions.DEFAULT));
          for (Executable extend : ways) {
            assertFails(Status.INVALID, "begin at", extend);
            back.clear();
            try {
              extend.execute();
            } catch (Throwable e) {
              throw new AssertionError(e);
            }
            assertArrayEquals(want, content(back), name);
          }
        }
      });
      assertFails(Status.IO, "", () -> o.runtime().loadCache(o.plan(), folder.resolve("none")));
      assertFails(Status.INVALID, "read-only", () -> o.cache().save(direct.asReadOnlyBuffer(), SaveOptions.DEFAULT));
      ByteBuffer small = ByteBuffer.allocateDirect(data.length - 1);
      String needs = "needs " + data.length + " bytes";
      assertFails(Status.BUFFER_TOO_SMALL, needs, () -> o.cache().save(small, SaveOptions.DEFAULT));
      assertFails(Status.BUFFER_TOO_SMALL, needs, () -> o.cache().save(ByteBuffer.allocate(0), SaveOptions.DEFAULT));
      assertEquals(0, small.position());
    }
  }

  @Test
  void rangesAndFingerprints() throws Exception {
    try (var o = filled("gear-2", TOKENS)) {
      KvgCache cache = o.cache();
      cache.append(1, Tensor.copyOf(fill(5 * ROW, 3)), Tensor.copyOf(fill(5 * ROW, 3)));
      byte[] mine = "this model".getBytes();
      SaveOptions options = SaveOptions.DEFAULT.withLayers(1, 1).withFingerprint(mine);
      byte[] only = bytes(cache, options);
      mine[0] = 'T'; // the options have their own
      assertArrayEquals("this model".getBytes(), options.fingerprint());
      byte[] right = "this model".getBytes();
      try (KvgCache back = o.runtime().loadCache(o.plan(), ByteBuffer.wrap(only), LoadOptions.DEFAULT.withFingerprint(right))) {
        assertEquals(0, back.length(0));
        assertEquals(5, back.length(1));
      }
      for (byte[] wrong : new byte[][] {{}, mine, new byte[257]}) {
        assertFails(
            Status.INVALID, "", () -> o.runtime().loadCache(o.plan(), ByteBuffer.wrap(only), LoadOptions.DEFAULT.withFingerprint(wrong)));
      }
      // In ranges of tokens, each behind the one before, from one cache to another.
      long cut = cache.stats(0, Side.K).sealedElements() / ROW;
      try (KvgCache whole = o.runtime().newCache(o.plan())) {
        for (SaveOptions part : List.of(options.withTokens(0, cut).withLayers(0, 1), options.withTokens(cut, 0).withLayers(0, 1))) {
          PipedInputStream in = new PipedInputStream(1000);
          PipedOutputStream out = new PipedOutputStream(in);
          Support.together(
              List.of(
                  () -> {
                    try (out) {
                      cache.save(out, part);
                    }
                    return null;
                  },
                  () -> {
                    whole.extend(in, LoadOptions.DEFAULT.withFingerprint(right));
                    return null;
                  }));
        }
        assertArrayEquals(content(cache), content(whole));
      }
    }
  }

  @Test
  void damaged() {
    try (var o = filled("gear-2", TOKENS)) {
      byte[] data = bytes(o.cache(), SaveOptions.DEFAULT);
      long before = o.runtime().memory();
      for (int n : new int[] {0, 1, 63, data.length / 2, data.length - 1}) {
        byte[] part = Arrays.copyOf(data, n);
        assertFails(Status.CORRUPT, "", () -> o.runtime().loadCache(o.plan(), new ByteArrayInputStream(part), LoadOptions.DEFAULT));
        assertFails(Status.CORRUPT, "", () -> o.runtime().loadCache(o.plan(), ByteBuffer.wrap(part), LoadOptions.DEFAULT));
      }
      data[data.length / 2] ^= 1;
      assertFails(Status.CORRUPT, "", () -> o.runtime().loadCache(o.plan(), new ByteArrayInputStream(data), LoadOptions.DEFAULT));
      assertEquals(before, o.runtime().memory());
    }
  }

  private interface Bad {
    int move() throws IOException;
  }

  /** A stream whose first calls go well. */
  private static final class Faulty extends OutputStream {
    private final Bad bad;
    private final InputStream rest;
    private int good;

    Faulty(Bad bad, int good, byte[] data) {
      this.bad = bad;
      this.good = good;
      rest = new ByteArrayInputStream(data);
    }

    @Override
    public void write(int b) {
      throw new AssertionError("byte by byte");
    }

    @Override
    public void write(byte[] from, int offset, int length) throws IOException {
      if (good-- <= 0) {
        bad.move();
      }
    }

    InputStream in() {
      return new InputStream() {
        @Override
        public int read() {
          throw new AssertionError("byte by byte");
        }

        @Override
        public int read(byte[] to, int offset, int length) throws IOException {
          return good-- <= 0 ? bad.move() : rest.read(to, offset, Math.min(length, 100));
        }
      };
    }
  }

  /** What a stream throws is the cause of an exception of the call. The cache is as before, and can be used. */
  @Test
  void badStreams() {
    IOException own = new IOException("the line is dead");
    Error error = new StackOverflowError("no");
    try (var o = filled("fp16", 5 * TOKENS)) {
      byte[] data = bytes(o.cache(), SaveOptions.DEFAULT);
      float[] want = content(o.cache());
      long before = o.runtime().memory();
      for (int good = 0; good < 3; good++) {
        for (Throwable thrown : List.of(own, new IllegalStateException("closed"), error)) {
          Bad bad = () -> {
            if (thrown instanceof IOException e) {
              throw e;
            }
            if (thrown instanceof RuntimeException e) {
              throw e;
            }
            throw (Error) thrown;
          };
          int n = good;
          try (KvgCache empty = o.runtime().newCache(o.plan())) {
            for (Executable call :
                List.<Executable>of(
                    () -> o.cache().save(new Faulty(bad, n, data), SaveOptions.DEFAULT),
                    () -> o.runtime().loadCache(o.plan(), new Faulty(bad, n, data).in(), LoadOptions.DEFAULT),
                    () -> empty.extend(new Faulty(bad, n, data).in(), LoadOptions.DEFAULT))) {
              assertSame(thrown, assertFails(Status.IO, "function", call).getCause());
            }
            assertEquals(0, empty.length(0));
          }
        }
        for (int lie : new int[] {0, 1 << 20}) { // no byte, and more than there is room for
          Faulty faulty = new Faulty(() -> lie, good, data);
          KvgException e = assertFails(Status.IO, "function", () -> o.runtime().loadCache(o.plan(), faulty.in(), LoadOptions.DEFAULT));
          assertInstanceOf(IOException.class, e.getCause());
        }
      }
      assertEquals(before, o.runtime().memory());
      Tensor row = Tensor.copyOf(fill(ROW, 1));
      o.cache().append(1, row, row); // nobody holds its lock
      assertArrayEquals(want, content(o.cache()));
    }
  }

  /** A stream that uses its own cache would wait for itself; others may be used. */
  @Test
  void cachesFromAStream() {
    try (var o = filled("gear-2", TOKENS); KvgCache other = o.runtime().newCache(o.plan())) {
      List<Throwable> causes = new ArrayList<>();
      for (Runnable use : List.<Runnable>of(o.cache()::clear, () -> o.cache().length(0), () -> other.length(0), o.cache()::close)) {
        OutputStream out = new OutputStream() {
          @Override
          public void write(int b) {}

          @Override
          public void write(byte[] from, int offset, int length) {
            use.run();
          }
        };
        try {
          o.cache().save(out, SaveOptions.DEFAULT);
          causes.add(null);
        } catch (KvgException e) {
          causes.add(e.getCause());
        }
      }
      assertEquals(Status.STATE, assertInstanceOf(KvgException.class, causes.get(0)).status());
      assertEquals(Status.STATE, assertInstanceOf(KvgException.class, causes.get(1)).status());
      assertEquals(Arrays.asList(null, null), causes.subList(2, 4)); // close ends the cache behind the call
      assertFails(Status.STATE, "closed", () -> o.cache().length(0));
    }
  }

  @Test
  void manyAtOnce() throws Exception {
    try (var o = filled("gear-2", TOKENS)) {
      float[] want = content(o.cache());
      List<Callable<Void>> work = new ArrayList<>();
      for (int i = 0; i < 8; i++) {
        work.add(() -> {
          for (int n = 0; n < 20; n++) {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            o.cache().save(out, SaveOptions.DEFAULT);
            try (KvgCache back = o.runtime().loadCache(o.plan(), new ByteArrayInputStream(out.toByteArray()), LoadOptions.DEFAULT)) {
              assertArrayEquals(want, content(back));
            }
          }
          return null;
        });
      }
      Support.together(work);
      Tensor row = Tensor.copyOf(fill(ROW, 1));
      o.cache().append(0, row, row); // no lock is left
    }
  }
}
