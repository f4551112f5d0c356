#include <stdio.h>
#include <stdlib.h>

#include "cli/command.h"

static void print_summary(const ks_run_summary *s, int code)
{
    if (s->rendered || s->failed)
        printf("%llu samples rendered in %.1f s on %d rank%s%s; %.0f network rows, %.0f saved by sharing, %.1f %% of rows filled, "
               "%.1f %% of the time decoding, %.1f %% outside the networks\n",
               (unsigned long long)s->rendered, s->rendering_seconds, s->ranks, s->ranks == 1 ? "" : "s",
               s->done_before ? " (the others were there)" : "", s->rows, s->rows_saved, 100 * s->rows_filled,
               100 * s->decoding, 100 * s->outside_network);
    else if (code == KS_EXIT_DONE && s->collected)
        printf("all %llu samples were there already\n", (unsigned long long)s->samples);
    if (s->failed)
        printf("%llu samples failed: the log says why\n", (unsigned long long)s->failed);
    if (code == KS_EXIT_RESUMABLE && !s->output[0])
        printf("stopped before rendering began: give the same command again\n");
    else if (code == KS_EXIT_RESUMABLE)
        printf("stopped: the same command goes on with %s.d\n", s->output);
    else if (!s->collected && !s->missing)
        printf("this part is done, and so are all others; another run collects them into %s\n", s->output);
    else if (!s->collected)
        printf("this part is done; %llu of %llu samples are still missing in %s.d\n", (unsigned long long)s->missing,
               (unsigned long long)s->samples, s->output);
    else
        printf("%s\n", s->output);
}

static void tell_end(int code, const ks_run_summary *summary, const ks_error *err)
{
    if (code == KS_EXIT_BAD_INPUT)
        complain("%s", err->text);
    else if (summary->rank == 0)
        print_summary(summary, code);
    flush_output();
}

int command_run(const command *self, int argc, char **argv)
{
    enum { SET = 1000, PROGRESS, FILTER, SHARD, DEADLINE, SHARE_GPUS };
    static const struct option names[] = {{"output", required_argument, NULL, 'o'}, {"set", required_argument, NULL, SET},
                                          {"threads", required_argument, NULL, 't'}, {"quiet", no_argument, NULL, 'q'},
                                          {"progress", required_argument, NULL, PROGRESS},
                                          {"filter", required_argument, NULL, FILTER},
                                          {"shard", required_argument, NULL, SHARD},
                                          {"deadline", required_argument, NULL, DEADLINE},
                                          {"share-gpus", no_argument, NULL, SHARE_GPUS}, {"help", no_argument, NULL, 'h'}, {0}};
    ks_catch_signals();
    source_options s = {0};
    ks_run_options options = {.tell = tell_end};
    const char **filters = calloc((size_t)argc, sizeof *filters);
    if (!filters)
        exit(complain("out of memory"));
    for (int c; (c = next_option(self, argc, argv, ":o:t:qh", names)) != -1;) {
        if (c == 'o')
            s.source.output = optarg;
        else if (c == SET)
            source_add_set(&s, optarg);
        else if (c == 't')
            options.threads = (int)whole_number("--threads", optarg, 1, 4096);
        else if (c == FILTER)
            filters[options.filter_count++] = optarg;
        else if (c == SHARD)
            options.shard = optarg;
        else if (c == DEADLINE)
            options.deadline_seconds = (double)whole_number("--deadline", optarg, 1, 1000000);
        else if (c == SHARE_GPUS)
            options.share_gpus = true;
        else if (c == PROGRESS)
            options.log_seconds = (double)whole_number("--progress", optarg, 1, 86400);
        else
            options.quiet = true;
    }
    s.source.path = only_argument(self, argc, argv, "job file");
    options.job = s.source;
    options.filters = filters;
    ks_error err = KS_ERROR_NONE;
    ks_run_summary summary;
    int code = ks_run(&options, &summary, &err);
    free(s.sets);
    free(filters);
    return code;
}
