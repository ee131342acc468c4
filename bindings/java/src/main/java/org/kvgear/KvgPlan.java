package org.kvgear;

import java.lang.ref.Cleaner;
import org.kvgear.internal.Handle;
import org.kvgear.internal.Loader;
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
