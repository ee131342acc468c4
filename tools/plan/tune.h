// kvgear-plan tune: finds for each layer and side of a model the width that its answers need, for a
// number of bits, a divergence, or an amount of memory. Used by main.cc.
#ifndef KVGEAR_TOOLS_PLAN_TUNE_H_
#define KVGEAR_TOOLS_PLAN_TUNE_H_

namespace kvgplan {

/// Runs the command by its flags; progress goes to stderr, results to stdout and the named files.
/// Throws demo::Refusal with a sentence.
void RunTune();

}  // namespace kvgplan

#endif  // KVGEAR_TOOLS_PLAN_TUNE_H_
