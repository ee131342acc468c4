// The results as a table for people and as JSON for programs. Used by main.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_REPORT_H_
#define KVGEAR_EXAMPLES_DEMO_REPORT_H_

#include <string>
#include <vector>

#include "evaluate.h"

namespace demo {

std::string TableText(const std::vector<Result>& results);

/// A list with one object per recipe. What was not measured is null.
std::string JsonText(const std::vector<Result>& results);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_REPORT_H_
