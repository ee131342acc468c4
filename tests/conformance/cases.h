/* The groups of cases of the conformance suite; main.c runs them one after another. */
#ifndef KVGEAR_TESTS_CONFORMANCE_CASES_H_
#define KVGEAR_TESTS_CONFORMANCE_CASES_H_

#include "kit.h"

void case_basics(void);  /* versions, names, recipes, plans, runtimes */
void case_structs(void); /* struct_size: older and newer headers */
void case_handles(void); /* NULL, destroyed, of another kind; any order of destruction */
void case_append(void);  /* types, strides, every refusal */
void case_attend(void);  /* against attention in double precision; every refusal */
void case_content(void); /* read, length, truncate, clear, fork, stats */
void case_history(void); /* every recipe: what a cache holds does not depend on how it came there */
void case_saved(void);   /* save, load, extend; prefixes */
void case_select(void);  /* policies, scores, positions; every refusal */
void case_plans(void);   /* plan files and latent layers */

#endif /* KVGEAR_TESTS_CONFORMANCE_CASES_H_ */
