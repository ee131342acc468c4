// What the publication of a method claims, beside what was measured here. Used by main.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_CLAIMS_H_
#define KVGEAR_EXAMPLES_DEMO_CLAIMS_H_

#include <string>
#include <vector>

#include "evaluate.h"

namespace demo {

/// A line for each result whose recipe has a claim on record; empty if none has.
std::string ClaimsText(const std::vector<Result>& results);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_CLAIMS_H_
