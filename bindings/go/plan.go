package kvgear

import (
	"runtime"
	"strings"
	"unsafe"

	"kvgear.org/kvgear/internal/raw"
)

// Recipe is a named recipe of the library.
type Recipe struct {
	Name    string // as recipe texts begin
	Summary string // one sentence
}

// Recipes returns the named recipes.
//
// From kvgear.h, kvg_recipe_count:
//
//	Returns how many named recipes there are.
//
// From kvgear.h, kvg_recipe_name:
//
//	Returns the name of recipe `index`, or NULL when index >= kvg_recipe_count(). Static string.
//
// From kvgear.h, kvg_recipe_summary:
//
//	Returns one sentence on recipe `index`, or NULL when out of range. Static string.
func Recipes() []Recipe {
	recipes := make([]Recipe, raw.KvgRecipeCount())
	for i := range recipes {
		recipes[i] = Recipe{raw.KvgRecipeName(uint32(i)), raw.KvgRecipeSummary(uint32(i))}
	}
	return recipes
}

// Policies returns the rules that keep only some tokens; a policy's name is a recipe's too.
//
// From kvgear.h, kvg_policy_count:
//
//	Returns how many policies there are: rules that keep only some tokens, or give tokens different widths. The name of a policy is also that of a recipe, with the defaults that it was published with; and "RECIPE,select=POLICY" adds it to another, as in "gear-4,select=h2o,budget=0.2".
//
// From kvgear.h, kvg_policy_name:
//
//	Returns the name of policy `index`, or NULL when index >= kvg_policy_count(). Static string.
//
// From kvgear.h, kvg_policy_summary:
//
//	Returns one sentence on policy `index`, or NULL when out of range. Static string.
func Policies() []Recipe {
	policies := make([]Recipe, raw.KvgPolicyCount())
	for i := range policies {
		policies[i] = Recipe{raw.KvgPolicyName(uint32(i)), raw.KvgPolicySummary(uint32(i))}
	}
	return policies
}

// CanonicalRecipe checks a recipe text and returns its canonical form.
//
// From kvgear.h, kvg_recipe_canonical:
//
//	Checks a recipe text and writes its canonical form: the name of the base recipe and the settings
//	that differ from it, in a fixed order. Parsing the result gives the same recipe.
//	A text is NAME[,KEY=VALUE]..., for example "gear-2,k.rank=4,v.bits=3,window=64". A key without
//	"k." or "v." sets both sides. The keys are listed in README.md and in the message of a refusal.
//	recipe: recipe text, terminated
//	needed: length with the terminator; may be NULL
func CanonicalRecipe(recipe string) (string, error) {
	const op = "kvg_recipe_canonical"
	if err := checkABI(); err != nil {
		return "", err
	}
	terminated, err := cText(op, "recipe", recipe)
	if err != nil {
		return "", err
	}
	return text(op, func(buffer []byte, needed *uint64) error { return raw.KvgRecipeCanonical(terminated, buffer, needed) })
}

// Plan is the shape of a model and the recipe of every layer; immutable.
type Plan struct {
	guard guard
	ptr   *raw.KvgPlan
	shape Shape
}

// NewPlan creates a plan.
//
// From kvgear.h, kvg_plan_create:
//
//	Creates a plan. `recipes` is a recipe text for all layers, optionally followed by overrides for
//	layers or ranges of layers, each behind a semicolon: "gear-2;0-1:int8;7:fp16,window=128". Layers
//	count from 0; where overrides name a layer twice the last one holds.
//	out: the plan. Destroy with kvg_plan_destroy.
func NewPlan(shape Shape, recipes string) (*Plan, error) {
	const op = "kvg_plan_create"
	if err := checkABI(); err != nil {
		return nil, err
	}
	terminated, err := cText(op, "recipes", recipes)
	if err != nil {
		return nil, err
	}
	s := raw.KvgShape{Layers: shape.Layers, QHeads: shape.QHeads, KVHeads: shape.KVHeads, HeadDim: shape.HeadDim}
	s.StructSize = uint32(unsafe.Sizeof(s))
	var ptr *raw.KvgPlan
	if err := raw.KvgPlanCreate(&s, terminated, &ptr); err != nil {
		return nil, wrap(op, err)
	}
	p := &Plan{ptr: ptr, shape: shape}
	p.guard.end = func() { raw.KvgPlanDestroy(ptr) }
	runtime.SetFinalizer(p, (*Plan).Close)
	return p, nil
}

// Close ends the plan's handle. Caches of the plan go on working. It may be called more than once and returns nil.
//
// From kvgear.h, kvg_plan_destroy:
//
//	Ends the caller's handle. The plan itself lives until its last cache is destroyed.
func (p *Plan) Close() error {
	if p == nil {
		return nil
	}
	runtime.SetFinalizer(p, nil)
	p.guard.close()
	return nil
}

// Shape returns the shape of the model.
//
// From kvgear.h, kvg_plan_shape:
//
//	Copies the shape. out->struct_size must be set.
func (p *Plan) Shape() (Shape, error) {
	const op = "kvg_plan_shape"
	if !p.guard.enter() {
		return Shape{}, closedError(op, "plan")
	}
	defer p.guard.leave()
	var s raw.KvgShape
	s.StructSize = uint32(unsafe.Sizeof(s))
	err := raw.KvgPlanShape(p.ptr, &s)
	var shape Shape
	shape.fromRaw(&s)
	return shape, wrap(op, err)
}

// Recipe returns the canonical recipe text of a layer.
//
// From kvgear.h, kvg_plan_recipe:
//
//	Writes the canonical recipe text of one layer; buffer rules as in kvg_recipe_canonical.
func (p *Plan) Recipe(layer uint32) (string, error) {
	const op = "kvg_plan_recipe"
	if !p.guard.enter() {
		return "", closedError(op, "plan")
	}
	defer p.guard.leave()
	return text(op, func(buffer []byte, needed *uint64) error { return raw.KvgPlanRecipe(p.ptr, layer, buffer, needed) })
}

// cText appends the terminator that C needs, and refuses a text that has one inside.
func cText(op, what, s string) (string, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return "", invalid(op, what+" holds a zero byte")
	}
	return s + "\x00", nil
}
