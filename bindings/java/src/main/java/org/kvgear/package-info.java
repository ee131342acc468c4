/**
 * Compressed key/value caches of language models, and attention on the compressed form.
 *
 * <p>A {@link org.kvgear.KvgPlan} says the shape of the model and how each layer is compressed (a recipe, such as "gear-2"), a
 * {@link org.kvgear.KvgRuntime} holds the threads and the memory budget, and a {@link org.kvgear.KvgCache} is the compressed
 * cache of one sequence:
 *
 * <pre>{@code
 * try (KvgRuntime runtime = KvgRuntime.create();
 *     KvgPlan plan = KvgPlan.create(new Shape(32, 32, 8, 128), "gear-2");
 *     KvgCache cache = runtime.newCache(plan)) {
 *   cache.append(layer, Tensor.f16(k), Tensor.f16(v)); // [tokens, 8, 128]
 *   cache.attend(layer, Tensor.f32(q), Tensor.f32(out)); // [queries, 32, 128]
 * }
 * }</pre>
 *
 * <p>Tensors are direct buffers, or from Java 22 on memory segments; nothing is copied. Failures are {@link
 * org.kvgear.KvgException}, with the library's status and the sentence that says what is wrong and what to change. Numbers that are
 * unsigned in C are the same bits in Java's signed types.
 */
package org.kvgear;
