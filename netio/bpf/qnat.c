/* All programs in one object, since they share the lease words. */
#include "kernel.h"
#include "guard.c"
#include "fast.c"

char license_text[] SEC("license") = "Dual MIT/GPL";
