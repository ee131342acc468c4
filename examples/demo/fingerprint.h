// What tells a model from others of its shape: plan files carry it, and are loaded for no other model.
// Used by compressed_store.cc and by kvgear-plan.
#ifndef KVGEAR_EXAMPLES_DEMO_FINGERPRINT_H_
#define KVGEAR_EXAMPLES_DEMO_FINGERPRINT_H_

#include <string>

#include "model.h"

namespace demo {

/// "fnv1a:" and 16 hexadecimal digits: a hash of the weights of all key and value projections.
std::string Fingerprint(const Model& model);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_FINGERPRINT_H_
