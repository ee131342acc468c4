// kvgear-plan latent: finds the subspaces of a model's keys and values and writes the plan file that
// latent caches (Palu, LoRC) need. Used by main.cc.
#ifndef KVGEAR_TOOLS_PLAN_LATENT_H_
#define KVGEAR_TOOLS_PLAN_LATENT_H_

namespace kvgplan {

/// Runs the command by its flags; the report goes to stdout. Throws demo::Refusal with a sentence.
void RunLatent();

}  // namespace kvgplan

#endif  // KVGEAR_TOOLS_PLAN_LATENT_H_
