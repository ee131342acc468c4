package org.kvgear;

import java.util.ArrayList;
import java.util.List;
import org.kvgear.internal.Loader;
import org.kvgear.internal.Raw;

/**
 * A named recipe of the library: how keys and values are compressed.
 *
 * @param name as recipe texts begin
 * @param summary one sentence
 */
public record Recipe(String name, String summary) {
  /**
   * The named recipes.
   *
   * <p>From kvgear.h, kvg_recipe_count:
   * <pre>
   * Returns how many named recipes there are, without those that need a plan file.
   * </pre>
   *
   * <p>From kvgear.h, kvg_recipe_name:
   * <pre>
   * Returns the name of recipe `index`, or NULL when index &gt;= kvg_recipe_count(). Static string.
   * </pre>
   *
   * <p>From kvgear.h, kvg_recipe_summary:
   * <pre>
   * Returns one sentence on recipe `index`, or NULL when out of range. Static string.
   * </pre>
   *
   * @return all of them
   */
  public static List<Recipe> all() {
    Loader.load();
    List<Recipe> recipes = new ArrayList<>();
    for (int i = 0; i < Raw.kvg_recipe_count(); i++) {
      recipes.add(new Recipe(Raw.kvg_recipe_name(i), Raw.kvg_recipe_summary(i)));
    }
    return List.copyOf(recipes);
  }

  /**
   * The policies: rules that keep only some tokens. The name of a policy is a recipe's too.
   *
   * <p>From kvgear.h, kvg_policy_count:
   * <pre>
   * Returns how many policies there are: rules that keep only some tokens, or give tokens different widths. The name of a policy is also that of a recipe, with the defaults that it was published with; and "RECIPE,select=POLICY" adds it to another, as in "gear-4,select=h2o,budget=0.2".
   * </pre>
   *
   * <p>From kvgear.h, kvg_policy_name:
   * <pre>
   * Returns the name of policy `index`, or NULL when index &gt;= kvg_policy_count(). Static string.
   * </pre>
   *
   * <p>From kvgear.h, kvg_policy_summary:
   * <pre>
   * Returns one sentence on policy `index`, or NULL when out of range. Static string.
   * </pre>
   *
   * @return all of them
   */
  public static List<Recipe> policies() {
    Loader.load();
    List<Recipe> policies = new ArrayList<>();
    for (int i = 0; i < Raw.kvg_policy_count(); i++) {
      policies.add(new Recipe(Raw.kvg_policy_name(i), Raw.kvg_policy_summary(i)));
    }
    return List.copyOf(policies);
  }

  /**
   * Checks a recipe text.
   *
   * <p>From kvgear.h, kvg_recipe_canonical:
   * <pre>
   * Checks a recipe text and writes its canonical form: the name of the base recipe and the settings
   * that differ from it, in a fixed order. Parsing the result gives the same recipe.
   * A text is NAME[,KEY=VALUE]..., for example "gear-2,k.rank=4,v.bits=3,window=64". A key without
   * "k." or "v." sets both sides. The keys are listed in README.md and in the message of a refusal.
   * recipe: recipe text, terminated
   * needed: length with the terminator; may be NULL
   * </pre>
   *
   * @param recipe the text
   * @return its canonical form
   */
  public static String canonical(String recipe) {
    Loader.load();
    byte[] text = Texts.terminated("kvg_recipe_canonical", "recipe", recipe);
    return Texts.ask((buffer, needed) -> Raw.kvg_recipe_canonical(text, buffer, needed));
  }
}
