#include "ksweep/ksweep.h"
#include "ksweep_version.h"

const char *ks_version(void)
{
    return KSWEEP_VERSION;
}
