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
//	Returns how many named recipes there are, without those that need a plan file.
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

// LoadPlan creates a plan from a plan file. The shape and the fingerprint, where they are not nil, are what the
// file's must be.
//
// From kvgear.h, kvg_plan_load:
//
//	Creates a plan from a plan file: a safetensors file that kvgear-plan wrote for one model, with what
//	was worked out offline, such as the factors of latent caches (recipes palu, palu-2, lorc, ... and the
//	setting latent=plan). The file is checked before it is used and not needed afterwards. What is
//	damaged is refused with KVG_E_CORRUPT, what is of another model, or lacks what the recipes need, with
//	KVG_E_INVALID.
//
//	On a side that keeps latents kvg_cache_append takes rows as the projection gives them, that is, keys
//	before rotary embedding, and computes their latents itself: of the model nothing else changes.
//	Keys are rebuilt and rotated at their positions 0, 1, 2, ... when they are attended to.
//	kvg_cache_read gives rows as they were appended. Measured errors are those of the latents. CUDA
//	devices, stores of prefixes and the selection of tokens do not take such layers yet.
//	path: terminated, as the system's functions take it
//	shape: what the file's must be; may be NULL
//	recipes: as for kvg_plan_create; "" takes those of the file
//	fingerprint: what the file's must be; 0 bytes: it may be any
//	fingerprint_bytes: 0 to 256
//	out: the plan. Destroy with kvg_plan_destroy.
func LoadPlan(path string, shape *Shape, recipes string, fingerprint []byte) (*Plan, error) {
	const op = "kvg_plan_load"
	if err := checkABI(); err != nil {
		return nil, err
	}
	terminatedPath, err := cText(op, "path", path)
	if err != nil {
		return nil, err
	}
	terminated, err := cText(op, "recipes", recipes)
	if err != nil {
		return nil, err
	}
	var s *raw.KvgShape
	if shape != nil {
		s = &raw.KvgShape{Layers: shape.Layers, QHeads: shape.QHeads, KVHeads: shape.KVHeads, HeadDim: shape.HeadDim}
		s.StructSize = uint32(unsafe.Sizeof(*s))
	}
	var ptr *raw.KvgPlan
	if err := raw.KvgPlanLoad(terminatedPath, s, terminated, fingerprint, &ptr); err != nil {
		return nil, wrap(op, err)
	}
	p := &Plan{ptr: ptr}
	p.guard.end = func() { raw.KvgPlanDestroy(ptr) }
	runtime.SetFinalizer(p, (*Plan).Close)
	if p.shape, err = p.Shape(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Latent returns the rank of the latents that a side of a layer keeps, 0 where it keeps none, and how many
// KV heads share one.
//
// From kvgear.h, kvg_plan_latent:
//
//	Tells whether a side of a layer keeps latents, and of what size.
//	rank: numbers of the latent of a group of heads; 0 = no latents
//	group_heads: KV heads of a group: 0 where there are no latents
func (p *Plan) Latent(layer uint32, side Side) (rank, groupHeads uint32, err error) {
	const op = "kvg_plan_latent"
	if !p.guard.enter() {
		return 0, 0, closedError(op, "plan")
	}
	defer p.guard.leave()
	err = wrap(op, raw.KvgPlanLatent(p.ptr, layer, uint32(side), &rank, &groupHeads))
	return rank, groupHeads, err
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
