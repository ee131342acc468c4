package org.kvgear;

import java.lang.ref.Cleaner;
import java.lang.ref.Reference;
import java.nio.ByteBuffer;
import org.kvgear.internal.Handle;
import org.kvgear.internal.Loader;
import org.kvgear.internal.Natives;
import org.kvgear.internal.Raw;

/**
 * Shape of a model and the recipe of every layer; immutable, shared by caches and threads.
 */
public final class KvgPlan implements AutoCloseable {
  private final Handle handle;
  private final Cleaner.Cleanable cleanable;
  private final Shape shape;

  private KvgPlan(long pointer, Shape shape) {
    this.shape = shape;
    handle = new Handle("plan", pointer, Raw::kvg_plan_destroy);
    cleanable = Ends.when(this, handle);
  }

  /**
   * Creates a plan.
   *
   * <p>From kvgear.h, kvg_plan_create:
   * <pre>
   * Creates a plan. `recipes` is a recipe text for all layers, optionally followed by overrides for
   * layers or ranges of layers, each behind a semicolon: "gear-2;0-1:int8;7:fp16,window=128". Layers
   * count from 0; where overrides name a layer twice the last one holds.
   * out: the plan. Destroy with kvg_plan_destroy.
   * </pre>
   *
   * @param shape shape of the attention layers
   * @param recipes recipe texts
   * @return the plan
   */
  public static KvgPlan create(Shape shape, String recipes) {
    Loader.load();
    long[] out = new long[1];
    Raw.kvg_plan_create(shape.pack(), Texts.terminated("kvg_plan_create", "recipes", recipes), out);
    return new KvgPlan(out[0], shape);
  }

  /**
   * Creates a plan from a plan file.
   *
   * <p>From kvgear.h, kvg_plan_load:
   * <pre>
   * Creates a plan from a plan file: a safetensors file that kvgear-plan wrote for one model, with what
   * was worked out offline, such as the factors of latent caches (recipes palu, palu-2, lorc, ... and the
   * setting latent=plan). The file is checked before it is used and not needed afterwards. What is
   * damaged is refused with KVG_E_CORRUPT, what is of another model, or lacks what the recipes need, with
   * KVG_E_INVALID.
   *
   * On a side that keeps latents kvg_cache_append takes rows as the projection gives them, that is, keys
   * before rotary embedding, and computes their latents itself: of the model nothing else changes.
   * Keys are rebuilt and rotated at their positions 0, 1, 2, ... when they are attended to.
   * kvg_cache_read gives rows as they were appended. Measured errors are those of the latents. CUDA
   * devices, stores of prefixes and the selection of tokens do not take such layers yet.
   * path: terminated, as the system's functions take it
   * shape: what the file's must be; may be NULL
   * recipes: as for kvg_plan_create; "" takes those of the file
   * fingerprint: what the file's must be; 0 bytes: it may be any
   * fingerprint_bytes: 0 to 256
   * out: the plan. Destroy with kvg_plan_destroy.
   * </pre>
   *
   * @param path the file
   * @param shape what the file's must be; null: it may be any
   * @param recipes recipe texts; empty takes those of the file
   * @param fingerprint what the file's must be; empty: it may be any
   * @return the plan
   */
  public static KvgPlan load(String path, Shape shape, String recipes, byte[] fingerprint) {
    Loader.load();
    long[] out = new long[1];
    ByteBuffer bytes = ByteBuffer.allocateDirect(fingerprint.length).put(fingerprint);
    try {
      Raw.kvg_plan_load(
          Texts.terminated("kvg_plan_load", "path", path),
          shape == null ? null : shape.pack(),
          Texts.terminated("kvg_plan_load", "recipes", recipes),
          Natives.address(bytes),
          fingerprint.length,
          out);
    } finally {
      Reference.reachabilityFence(bytes);
    }
    byte[] found = new Shape(0, 0, 0, 0).pack();
    Raw.kvg_plan_shape(out[0], found);
    return new KvgPlan(out[0], Shape.unpack(found));
  }

  /**
   * Whether a side of a layer keeps latents.
   *
   * <p>From kvgear.h, kvg_plan_latent:
   * <pre>
   * Tells whether a side of a layer keeps latents, and of what size.
   * rank: numbers of the latent of a group of heads; 0 = no latents
   * group_heads: KV heads of a group: 0 where there are no latents
   * </pre>
   *
   * @param layer the layer
   * @param side keys or values
   * @return rank of the latents, 0 where there are none, and KV heads of a group
   */
  public int[] latent(int layer, Side side) {
    long[] rank = new long[1];
    long[] heads = new long[1];
    long plan = handle.enter("kvg_plan_latent");
    try {
      Raw.kvg_plan_latent(plan, layer, side.code(), rank, heads);
    } finally {
      handle.leave();
    }
    return new int[] {(int) rank[0], (int) heads[0]};
  }

  Handle handle() {
    return handle;
  }

  Shape shapeAtCreation() {
    return shape;
  }

  /**
   * Ends the plan's handle. Caches of the plan go on working. It may be called at any time and more than once.
   *
   * <p>From kvgear.h, kvg_plan_destroy:
   * <pre>
   * Ends the caller's handle. The plan itself lives until its last cache is destroyed.
   * </pre>
   */
  @Override
  public void close() {
    cleanable.clean();
  }

  /**
   * The shape of the model.
   *
   * <p>From kvgear.h, kvg_plan_shape:
   * <pre>
   * Copies the shape. out-&gt;struct_size must be set.
   * </pre>
   *
   * @return the shape
   */
  public Shape shape() {
    byte[] out = new Shape(0, 0, 0, 0).pack();
    long plan = handle.enter("kvg_plan_shape");
    try {
      Raw.kvg_plan_shape(plan, out);
    } finally {
      handle.leave();
    }
    return Shape.unpack(out);
  }

  /**
   * The canonical recipe text of a layer.
   *
   * <p>From kvgear.h, kvg_plan_recipe:
   * <pre>
   * Writes the canonical recipe text of one layer; buffer rules as in kvg_recipe_canonical.
   * </pre>
   *
   * @param layer the layer
   * @return the text
   */
  public String recipe(int layer) {
    long plan = handle.enter("kvg_plan_recipe");
    try {
      return Texts.ask((buffer, needed) -> Raw.kvg_plan_recipe(plan, layer, buffer, needed));
    } finally {
      handle.leave();
    }
  }
}
