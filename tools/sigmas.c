/* Prints the sigmas of every scheduler for a number of steps, one line each: name, then the values. For tools/plot_sigmas.py. */
#include <stdio.h>
#include <stdlib.h>

#include "sampling/schedule.h"

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 20;
    ks_model_sampling ms;
    ks_model_sampling_init(&ms, KS_PREDICT_EPS, false, 0.00085, 0.012);
    for (int i = 0; i < ks_scheduler_count(); i++) {
        ks_error err = KS_ERROR_NONE;
        float *sigmas;
        int count;
        if (ks_schedule(&ms, i, steps, 1.0, false, &sigmas, &count, &err)) {
            fprintf(stderr, "%s: %s\n", ks_scheduler_name(i), err.text);
            return 1;
        }
        printf("%s", ks_scheduler_name(i));
        for (int k = 0; k < count; k++)
            printf(" %.9g", (double)sigmas[k]);
        printf("\n");
        free(sigmas);
    }
    return 0;
}
