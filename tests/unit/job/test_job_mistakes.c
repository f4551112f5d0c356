/* Every kind of mistake, and the one line that each gets. */
#include "unit/job/job_file.h"

#include "sampling/sampler.h"
#include "sampling/schedule.h"

typedef struct mistake {
    const char *set, *message;
} mistake;

static const mistake version_and_model_mistakes[] = {
    {"ksweep=2",
     "ksweep: 2 does not fit; give \"ksweep\": 1, the version of the format that this program "
     "reads"},
    {"ksweep=\"1\"",
     "ksweep: \"1\" does not fit; give \"ksweep\": 1, the version of the format that this "
     "program reads"},
    {"model=",
     "model: \"\" does not fit; give the path of a safetensors checkpoint"},
    {"model=7",
     "model: 7 does not fit; give the path of a safetensors checkpoint"},
};

static const mistake conditioning_mistakes[] = {
    {"positive=7",
     "positive: 7 does not fit; give a text, {\"file\": \"c.safetensors\", \"cond\": \"NAME\"}, "
     "a list of values, or a list inside the list to combine several"},
    {"positive=[]",
     "positive: is an empty list; give at least one value"},
    {"positive=[[]]",
     "positive[0]: is an empty list; give the conditionings to combine"},
    {"positive=[\"a\",[[\"b\"]]]",
     "positive[1][0]: [\"b\"] does not fit; give a text, {\"file\": \"c.safetensors\", \"cond\": "
     "\"NAME\"}, a list of values, or a list inside the list to combine several"},
    {"positive=[\"a\",null]",
     "positive[1]: null does not fit; give a text, {\"file\": \"c.safetensors\", \"cond\": "
     "\"NAME\"}, a list of values, or a list inside the list to combine several"},
    {"positive={\"text\":\"a\",\"pooled\":\"p\"}",
     "positive: has a tensor's name beside \"text\"; give \"file\" instead of \"text\", or "
     "remove \"cond\", \"pooled\" and \"y\""},
    {"positive={\"file\":\"c.st\"}",
     "positive.cond: is missing; give the name of a tensor in the file"},
    {"positive={\"file\":\"\",\"cond\":\"c\"}",
     "positive.file: \"\" does not fit; give the path of a safetensors file"},
    {"positive={\"file\":\"c.st\",\"cond\":\"\"}",
     "positive.cond: \"\" does not fit; give the name of a tensor in the file"},
    {"positive={\"file\":\"c.st\",\"cond\":\"c\",\"pooled\":\"p\",\"y\":\"y\"}",
     "positive: has both \"pooled\" and \"y\"; give \"pooled\", or \"y\" for the model's whole "
     "vector as it is"},
    {"positive={\"file\":\"c.st\",\"cond\":\"c\",\"width\":512}",
     "positive: has a size but no \"pooled\" that it would go with; give \"pooled\" or remove "
     "the sizes"},
    {"positive={\"file\":\"c.st\",\"cond\":\"c\",\"y\":\"y\",\"width\":512}",
     "positive: has a size but no \"pooled\" that it would go with; give \"pooled\" or remove "
     "the sizes"},
    {"positive={\"file\":\"c.st\",\"cond\":\"c\",\"pooled\":\"p\",\"width\":16385}",
     "positive.width: 16385 does not fit; give a whole number from 0 to 16384"},
    {"positive={\"text\":\"a\",\"strength\":-1}",
     "positive.strength: -1 does not fit; give a number from 0 to 1000"},
    {"positive={\"text\":\"a\",\"strength\":\"1\"}",
     "positive.strength: \"1\" does not fit; give a number from 0 to 1000"},
    {"positive={\"text\":\"a\",\"start_percent\":1.5}",
     "positive.start_percent: 1.5 does not fit; give a number from 0 to 1"},
    {"positive={\"text\":\"a\",\"end_percent\":-0.1}",
     "positive.end_percent: -0.1 does not fit; give a number from 0 to 1"},
    {"positive={\"text\":\"a\",\"start_percent\":0.6,\"end_percent\":0.4}",
     "positive.start_percent: 0.6 is behind \"end_percent\", 0.4: it would never be active; give at most that"},
    {"positive=[[\"a\",{\"text\":\"b\",\"strenght\":1}]]",
     "positive[0][1]: unknown key \"strenght\"; did you mean \"strength\"?"},
    {"negative=[]",
     "negative: is an empty list; give at least one value"},
};

static const mistake latent_mistakes[] = {
    {"latent_image=512",
     "latent_image: 512 does not fit; give {\"width\": 512, \"height\": 512} in pixels, "
     "{\"file\": \"x.latent\"}, or a list of them"},
    {"latent_image=[]",
     "latent_image: is an empty list; give at least one value"},
    {"latent_image={}",
     "latent_image: has no size; give \"width\" and \"height\" in pixels, or \"file\""},
    {"latent_image={\"width\":512}",
     "latent_image: has no size; give \"width\" and \"height\" in pixels, or \"file\""},
    {"latent_image={\"width\":100,\"height\":512}",
     "latent_image.width: 100 does not fit; give pixels, a multiple of 8 from 16 to 16384"},
    {"latent_image={\"width\":512,\"height\":8}",
     "latent_image.height: 8 does not fit; give pixels, a multiple of 8 from 16 to 16384"},
    {"latent_image={\"width\":512,\"height\":16392}",
     "latent_image.height: 16392 does not fit; give pixels, a multiple of 8 from 16 to 16384"},
    {"latent_image={\"width\":512,\"height\":\"512\"}",
     "latent_image.height: \"512\" does not fit; give pixels, a multiple of 8 from 16 to 16384"},
    {"latent_image={\"file\":\"x.latent\",\"width\":512,\"height\":512}",
     "latent_image: has a size beside \"file\", which has its own; remove \"width\" and "
     "\"height\""},
    {"latent_image={\"width\":512,\"height\":512,\"dataset\":\"d\"}",
     "latent_image: has \"dataset\" without a file; give \"file\" or remove it"},
    {"latent_image={\"width\":512,\"height\":512,\"index\":0}",
     "latent_image: has \"index\" without a file; give \"file\" or remove it"},
    {"latent_image={\"file\":\"x.h5\",\"dataset\":\"d\",\"index\":-1}",
     "latent_image.index: -1 does not fit; give the latent's place in the file, a whole number "
     "from 0"},
    {"latent_image={\"width\":512,\"height\":512,\"batch_size\":0}",
     "latent_image.batch_size: 0 does not fit; give a whole number from 1 to 4096"},
    {"latent_image={\"width\":512,\"height\":512,\"batch_size\":4097}",
     "latent_image.batch_size: 4097 does not fit; give a whole number from 1 to 4096"},
    {"latent_image={\"width\":512,\"height\":512,\"batch_size\":2,\"batch_index\":[1]}",
     "latent_image.batch_index: is a list of 1 for a batch of 2; give one place for each latent"},
    {"latent_image={\"width\":512,\"height\":512,\"batch_index\":[1,2]}",
     "latent_image.batch_index: is a list of 2 for a batch of 1; give one place for each latent"},
    {"latent_image={\"width\":512,\"height\":512,\"batch_index\":[]}",
     "latent_image.batch_index: [] does not fit; give a list of 1 to 4096 whole numbers from 0 "
     "to 4095"},
    {"latent_image={\"width\":512,\"height\":512,\"batch_index\":[4096]}",
     "latent_image.batch_index[0]: 4096 does not fit; give a whole number from 0 to 4095"},
    {"latent_image={\"width\":512,\"height\":512,\"batch_index\":3}",
     "latent_image.batch_index: 3 does not fit; give a list of 1 to 4096 whole numbers from 0 to "
     "4095"},
    {"latent_image=[{\"width\":512,\"height\":512},{\"width\":512,\"height\":256}]",
     "latent_image[1]: has 512 x 256 pixels and another value has 512 x 512; give all the same "
     "size: one job has one latent shape"},
    {"latent_image=[{\"width\":512,\"height\":512},{\"file\":\"x.latent\",\"batch_size\":4}]",
     "latent_image[1]: is a batch of 4 and another value one of 1; give all the same: one job "
     "has one latent shape"},
};

static const mistake widget_mistakes[] = {
    {"denoise=1.1",
     "denoise: 1.1 does not fit; give a number from 0 to 1"},
    {"denoise=-0.1",
     "denoise: -0.1 does not fit; give a number from 0 to 1"},
    {"denoise={\"from\":0,\"to\":1,\"step\":0.3}",
     "denoise.to: 1 does not fit; give an end that the steps reach (both ends are included): 0.9"},
    {"denoise={\"from\":1,\"to\":0.05,\"step\":-0.3}",
     "denoise.to: 0.05 does not fit; give an end that the steps reach (both ends are included): 0.1"},
    {"denoise=[]",
     "denoise: is an empty list; give at least one value"},
    {"scheduler=karas",
     "scheduler: no scheduler is called \"karas\"; did you mean \"karras\"?"},
    {"scheduler={\"from\":1,\"to\":2,\"step\":1}",
     "scheduler: {\"from\":1,\"to\":2,\"step\":1} does not fit; give the name of a scheduler, or "
     "a list of them"},
    {"sampler_name=eulr",
     "sampler_name: no sampler is called \"eulr\"; did you mean \"euler\"?"},
    {"sampler_name=[\"euler\",7]",
     "sampler_name[1]: 7 does not fit; give the name of a sampler, or a list of them"},
    {"sampler_name=[]",
     "sampler_name: is an empty list; give at least one value"},
    {"cfg=x",
     "cfg: \"x\" does not fit; give a number from -1000 to 1000"},
    {"cfg=true",
     "cfg: true does not fit; give a number from -1000 to 1000"},
    {"cfg=1000.5",
     "cfg: 1000.5 does not fit; give a number from -1000 to 1000"},
    {"cfg=[1,2,\"3\"]",
     "cfg[2]: \"3\" does not fit; give a number from -1000 to 1000"},
    {"cfg=1e400",
     "cfg: \"1e400\" does not fit; give a number from -1000 to 1000"},
    {"cfg=[[1]]",
     "cfg[0]: [1] does not fit; give a number from -1000 to 1000"},
    {"cfg={\"from\":1,\"to\":2}",
     "cfg.step: is missing; give the distance from one value to the next"},
    {"cfg={\"from\":1,\"to\":2,\"step\":0}",
     "cfg.step: 0 does not fit; give the distance from one value to the next, not 0"},
    {"cfg={\"from\":1,\"to\":2,\"step\":-0.5}",
     "cfg.step: -0.5 does not fit; give a positive step, as \"to\" is above \"from\""},
    {"cfg={\"from\":2,\"to\":1,\"step\":0.5}",
     "cfg.step: 0.5 does not fit; give a negative step, as \"to\" is below \"from\""},
    {"cfg={\"from\":0,\"to\":1,\"step\":0.3}",
     "cfg.to: 1 does not fit; give an end that the steps reach (both ends are included): 0.9 or "
     "1.2"},
    {"cfg={\"from\":0,\"to\":2000,\"step\":1}",
     "cfg.to: 2000 does not fit; give a number from -1000 to 1000"},
    {"cfg={\"from\":0,\"to\":1000,\"step\":0.0001}",
     "cfg: is a range of 10000001 values; give at most 1000000"},
    {"cfg={\"from\":0,\"to\":1e-20,\"step\":3e-21}",
     "cfg.to: 1e-20 does not fit; give an end that the steps reach (both ends are included): "
     "9e-21 or 1.2e-20"},
    {"cfg={\"from\":0,\"to\":1,\"step\":1e-30}",
     "cfg: has numbers of too many digits to step exactly; give at most 15 significant digits, "
     "or a list"},
    {"cfg={\"from\":0,\"to\":1,\"stop\":1}",
     "cfg: unknown key \"stop\"; did you mean \"step\"?"},
    {"cfg={\"start\":0,\"count\":3}",
     "cfg: unknown key \"start\"; known here: from, to, step"},
    {"steps=0",
     "steps: 0 does not fit; give a whole number from 1 to 10000"},
    {"steps=10001",
     "steps: 10001 does not fit; give a whole number from 1 to 10000"},
    {"steps=20.5",
     "steps: 20.5 does not fit; give a whole number from 1 to 10000"},
    {"steps=\"20\"",
     "steps: \"20\" does not fit; give a whole number from 1 to 10000"},
    {"steps={\"from\":1,\"to\":10,\"step\":0.5}",
     "steps.step: 0.5 does not fit; give a whole number from -9999 to 9999"},
    {"steps={\"from\":1,\"to\":10,\"step\":2}",
     "steps.to: 10 does not fit; give an end that the steps reach (both ends are included): 9 or "
     "11"},
};

static const mistake seed_mistakes[] = {
    {"seed=-1",
     "seed: -1 does not fit; give a whole number from 0 to 18446744073709551615, as a number or "
     "as a text of its digits"},
    {"seed=1.5",
     "seed: 1.5 does not fit; give a whole number from 0 to 18446744073709551615, as a number or "
     "as a text of its digits"},
    {"seed=18446744073709551616",
     "seed: 18446744073709551616 does not fit; give a whole number from 0 to "
     "18446744073709551615, as a number or as a text of its digits"},
    {"seed=\"1e3\"",
     "seed: \"1e3\" does not fit; give a whole number from 0 to 18446744073709551615, as a "
     "number or as a text of its digits"},
    {"seed=\"-1\"",
     "seed: \"-1\" does not fit; give a whole number from 0 to 18446744073709551615, as a number "
     "or as a text of its digits"},
    {"seed=\"\"",
     "seed: \"\" does not fit; give a whole number from 0 to 18446744073709551615, as a number "
     "or as a text of its digits"},
    {"seed=\"0x10\"",
     "seed: \"0x10\" does not fit; give a whole number from 0 to 18446744073709551615, as a "
     "number or as a text of its digits"},
    {"seed=[]",
     "seed: is an empty list; give at least one seed"},
    {"seed=[1,-1]",
     "seed[1]: -1 does not fit; give a whole number from 0 to 18446744073709551615, as a number "
     "or as a text of its digits"},
    {"seed={\"start\":1}",
     "seed.count: is missing; give how many seeds to make from start"},
    {"seed={\"start\":1,\"count\":0}",
     "seed.count: 0 does not fit; give how many seeds to make, 1 to 9223372036854775807"},
    {"seed={\"start\":-1,\"count\":1}",
     "seed.start: -1 does not fit; give a whole number from 0 to 18446744073709551615, as a "
     "number or as a text of its digits"},
    {"seed={\"start\":1,\"count\":9223372036854775808}",
     "seed.count: 9223372036854775808 does not fit; give how many seeds to make, 1 to "
     "9223372036854775807"},
    {"seed={\"start\":1,\"count\":2,\"step\":1}",
     "seed: unknown key \"step\"; known here: start, count"},
    {"seed={\"from\":1,\"to\":5}",
     "seed.step: is missing; give the distance from one seed to the next"},
    {"seed={\"from\":1,\"to\":5,\"step\":0}",
     "seed.step: 0 does not fit; give the distance from one seed to the next, not 0"},
    {"seed={\"from\":1,\"to\":5,\"step\":3}",
     "seed.to: 5 does not fit; give an end that the steps reach (both ends are included)"},
    {"seed={\"from\":5,\"to\":1,\"step\":3}",
     "seed.step: 3 does not fit; give a negative step, as \"to\" is below \"from\""},
    {"seed={\"from\":1,\"to\":5,\"step\":-1}",
     "seed.step: -1 does not fit; give a positive step, as \"to\" is above \"from\""},
    {"seed={\"from\":0,\"to\":18446744073709551615,\"step\":1}",
     "seed: is a range of more than 9223372036854775807 seeds; give a larger step or a nearer end"},
    {"control_after_generate=random",
     "control_after_generate: \"random\" does not fit; give \"fixed\" or \"increment\" or "
     "\"decrement\" or \"randomize\""},
    {"control_after_generate=1",
     "control_after_generate: 1 does not fit; give \"fixed\" or \"increment\" or \"decrement\" "
     "or \"randomize\""},
};

static const mistake setting_mistakes[] = {
    {"noise_device=gpu",
     "noise_device: \"gpu\" does not fit; give \"cuda\", \"cuda:N\" for a chip of N "
     "multiprocessors, or \"cpu\""},
    {"noise_device=cuda:0",
     "noise_device: \"cuda:0\" does not fit; give \"cuda\", \"cuda:N\" for a chip of N "
     "multiprocessors, or \"cpu\""},
    {"noise_device=cuda:",
     "noise_device: \"cuda:\" does not fit; give \"cuda\", \"cuda:N\" for a chip of N "
     "multiprocessors, or \"cpu\""},
    {"noise_device=cuda:99999999999999999999999999",
     "noise_device: \"cuda:99999999999999999999999999\" does not fit; give \"cuda\", \"cuda:N\" "
     "for a chip of N multiprocessors, or \"cpu\""},
    {"precision=float",
     "precision: \"float\" does not fit; give \"auto\" or \"fp32\" or \"fp16\" or \"bf16\""},
    {"prediction=x",
     "prediction: \"x\" does not fit; give \"auto\" or \"eps\" or \"v\""},
    {"zsnr=1",
     "zsnr: 1 does not fit; give true or false"},
    {"parallel=2",
     "parallel: 2 does not fit; give {\"batch_rows\": 16}"},
    {"parallel={\"tensor\":0}",
     "parallel.tensor: 0 does not fit; give a whole number from 1 to 64"},
    {"parallel={\"rows\":65}",
     "parallel.rows: 65 does not fit; give a whole number from 1 to 64"},
    {"parallel={\"rows\":4,\"batch_rows\":6}",
     "parallel.batch_rows: 6 rows cannot be dealt out evenly to the 4 ranks of \"rows\"; give a multiple of 4"},
    {"parallel={\"batch_rows\":-1}",
     "parallel.batch_rows: -1 does not fit; give a whole number from 0 to 4096"},
    {"parallel={\"batchrows\":1}",
     "parallel: unknown key \"batchrows\"; did you mean \"batch_rows\"?"},
    {"device=gpu",
     "device: \"gpu\" does not fit; give \"auto\" or \"cpu\" or \"cuda\""},
    {"output=x.h5",
     "output: \"x.h5\" does not fit; give {\"file\": \"out.h5\"}"},
    {"output={}",
     "output.file: is missing; give the path of the HDF5 file to write, here or with -o"},
    {"output.file=\"\"",
     "output.file: \"\" does not fit; give a path"},
    {"output.latents=float64",
     "output.latents: \"float64\" does not fit; give \"float32\" or \"float16\""},
    {"output.images=1",
     "output.images: 1 does not fit; give true or false"},
    {"output.collect=all",
     "output.collect: \"all\" does not fit; give \"auto\" or \"merge\" or \"virtual\""},
};

static const mistake key_mistakes[] = {
    {"steps_=3",
     "unknown key \"steps_\"; did you mean \"steps\"?"},
    {"CFG=3",
     "unknown key \"CFG\"; did you mean \"cfg\"?"},
    {"Steps=3",
     "unknown key \"Steps\"; did you mean \"steps\"?"},
    {"sampler=euler",
     "unknown key \"sampler\"; did you mean \"sampler_name\"?"},
    {"cfg_scale=3",
     "unknown key \"cfg_scale\"; did you mean \"cfg\"?"},
    {"positive={\"text\":\"a\",\"Strength\":1}",
     "positive: unknown key \"Strength\"; did you mean \"strength\"?"},
};

static const mistake region_mistakes[] = {
    {"positive={\"text\":\"a\",\"area\":64}",
     "positive.area: 64 does not fit; give [height, width, y, x] in pixels, or {\"percentage\": "
     "[height, width, y, x]} in shares of the picture"},
    {"positive={\"text\":\"a\",\"area\":[64,64,0]}",
     "positive.area: [64,64,0] does not fit; give [height, width, y, x] in pixels, or "
     "{\"percentage\": [height, width, y, x]} in shares of the picture"},
    {"positive={\"text\":\"a\",\"area\":[64,7,0,0]}",
     "positive.area[1]: 7 does not fit; give whole pixels from 8 to 16384"},
    {"positive={\"text\":\"a\",\"area\":[64,64,-8,0]}",
     "positive.area[2]: -8 does not fit; give whole pixels from 0 to 16384"},
    {"positive={\"text\":\"a\",\"area\":[64,64,0,0.5]}",
     "positive.area[3]: 0.5 does not fit; give whole pixels from 0 to 16384"},
    {"positive={\"text\":\"a\",\"area\":[\"percentage\",0.5,0.5,0,0]}",
     "positive.area: [\"percentage\",0.5,0.5,0,0] does not fit; give [height, width, y, x] in "
     "pixels, or {\"percentage\": [height, width, y, x]} in shares of the picture"},
    {"positive={\"text\":\"a\",\"area\":{}}",
     "positive.area: {} does not fit; give [height, width, y, x] in pixels, or {\"percentage\": "
     "[height, width, y, x]} in shares of the picture"},
    {"positive={\"text\":\"a\",\"area\":{\"percent\":[0,0,0,0]}}",
     "positive.area: unknown key \"percent\"; did you mean \"percentage\"?"},
    {"positive={\"text\":\"a\",\"area\":{\"percentage\":[0.5,50,0,0]}}",
     "positive.area.percentage[1]: 50 does not fit; give a share of the picture from 0 to 1"},
    {"positive={\"text\":\"a\",\"mask\":\"m.png\"}",
     "positive.mask: \"m.png\" does not fit; give {\"file\": \"m.safetensors\", \"tensor\": "
     "\"NAME\"}"},
    {"positive={\"text\":\"a\",\"mask\":{\"tensor\":\"m\"}}",
     "positive.mask.file: is missing; give the path of a safetensors, HDF5 or PNG file"},
    {"positive={\"text\":\"a\",\"mask\":{\"file\":\"m.st\",\"tensor\":\"\"}}",
     "positive.mask.tensor: \"\" does not fit; give the name of a tensor or data set in the file, "
     "or of a PNG's channel"},
    {"positive={\"text\":\"a\",\"mask\":{\"file\":\"m.st\",\"tensors\":\"m\"}}",
     "positive.mask: unknown key \"tensors\"; did you mean \"tensor\"?"},
    {"positive={\"text\":\"a\",\"mask_strength\":1}",
     "positive.mask_strength: belongs to a mask that is not there; give \"mask\" or remove it"},
    {"positive={\"text\":\"a\",\"mask\":{\"file\":\"m.png\"},\"mask_strength\":-1}",
     "positive.mask_strength: -1 does not fit; give a number from 0 to 1000"},
    {"positive={\"text\":\"a\",\"area\":[64,64,0,0],\"set_area_to_bounds\":false}",
     "positive.set_area_to_bounds: belongs to a mask that is not there; give \"mask\" or remove "
     "it"},
    {"positive={\"text\":\"a\",\"set_area_to_bounds\":1}",
     "positive.set_area_to_bounds: 1 does not fit; give true or false"},
    {"latent_image={\"width\":512,\"height\":512,\"noise_mask\":\"m.png\"}",
     "latent_image.noise_mask: \"m.png\" does not fit; give {\"file\": \"m.safetensors\", "
     "\"tensor\": \"NAME\"}"},
    {"latent_image={\"width\":512,\"height\":512,\"noise_mask\":{}}",
     "latent_image.noise_mask.file: is missing; give the path of a safetensors, HDF5 or PNG file"},
};

static const mistake advanced_mistakes[] = {
    {"add_noise=enable",
     "add_noise: \"enable\" does not fit; give true or false"},
    {"start_at_step=-1",
     "start_at_step: -1 does not fit; give a whole number from 0 to 10000"},
    {"start_at_step=[1,2]",
     "start_at_step: [1,2] does not fit; give a whole number from 0 to 10000"},
    {"end_at_step=10001",
     "end_at_step: 10001 does not fit; give a whole number from 0 to 10000"},
    {"end_at_step=2.5",
     "end_at_step: 2.5 does not fit; give a whole number from 0 to 10000"},
    {"return_with_leftover_noise=0",
     "return_with_leftover_noise: 0 does not fit; give true or false"},
};

/* What the format has and this version has not. */
static const mistake unsupported[] = {
    {"latent_image={\"image\":\"x.png\"}",
     "latent_image.image: a picture as latent is not supported in this version; encode it and "
     "give {\"file\": \"x.latent\"}"},
    {"sampler_name=exp_heun_2_x0",
     "sampler_name: ComfyUI's sampler \"exp_heun_2_x0\" is not supported in this version; give "
     "another, such as \"euler\""},
    {"precision=fp8",
     "precision: \"fp8\" is not supported in this version; give \"auto\", \"fp32\", \"fp16\" or \"bf16\""},
};

static void all_are_refused(const mistake *mistakes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        small_job_is_refused(mistakes[i].set, mistakes[i].message);
}

#define ALL_ARE_REFUSED(mistakes) all_are_refused(mistakes, sizeof mistakes / sizeof *mistakes)

static void a_wrong_version_or_model_is_refused(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(version_and_model_mistakes);
}

static void wrong_areas_and_masks_are_refused(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(region_mistakes);
}

static void wrong_settings_of_the_advanced_node_are_refused(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(advanced_mistakes);
}

static void wrong_conditionings_are_refused(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(conditioning_mistakes);
}

static void wrong_latents_are_refused(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(latent_mistakes);
}

static void wrong_widget_values_are_refused(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(widget_mistakes);
}

static void wrong_seeds_are_refused(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(seed_mistakes);
}

static void wrong_settings_are_refused(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(setting_mistakes);
}

static void unknown_keys_are_refused(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(key_mistakes);
}

static void what_this_version_lacks_gets_a_line_of_its_own(void **state)
{
    (void)state;
    ALL_ARE_REFUSED(unsupported);
}

static void a_name_like_no_other_gets_the_list(void **state)
{
    (void)state;
    char *list = ks_strdup("sampler_name: no sampler is called \"qqqqqqqq\"; give one of ");
    for (int i = 0; i < ks_sampler_count(); i++) {
        char *longer = ks_format("%s%s%s", list, i ? ", " : "", ks_sampler_at(i)->name);
        free(list);
        list = longer;
    }
    small_job_is_refused("sampler_name=qqqqqqqq", list);
    free(list);
}

static void required_keys_are_asked_for(void **state)
{
    (void)state;
#define KSWEEP "\"ksweep\":1"
#define MODEL "\"model\":\"m\""
#define POSITIVE "\"positive\":\"p\""
#define LATENT "\"latent_image\":{\"width\":64,\"height\":64}"
#define OUTPUT "\"output\":{\"file\":\"o.h5\"}"
    job_is_refused("{" MODEL "," POSITIVE "," LATENT "," OUTPUT "}", NULL,
                   "ksweep: is missing; give \"ksweep\": 1, the version of the format that this "
                   "program reads");
    job_is_refused("{" KSWEEP "," POSITIVE "," LATENT "," OUTPUT "}", NULL,
                   "model: is missing; give the path of a safetensors checkpoint");
    job_is_refused("{" KSWEEP "," MODEL "," LATENT "," OUTPUT "}", NULL,
                   "positive: is missing; give a text, or {\"file\": \"c.safetensors\", \"cond\": "
                   "\"NAME\"}");
    job_is_refused("{" KSWEEP "," MODEL "," POSITIVE "," OUTPUT "}", NULL,
                   "latent_image: is missing; give {\"width\": 512, \"height\": 512} in pixels, or "
                   "{\"file\": \"x.latent\"}");
    job_is_refused("{" KSWEEP "," MODEL "," POSITIVE "," LATENT "}", NULL,
                   "output: is missing; give {\"file\": \"out.h5\"}, here or with -o");
}

static void a_job_must_be_an_object(void **state)
{
    (void)state;
    job_is_refused("[1]", NULL, "[1] does not fit; give an object with keys, {\"key\": value}");
}

static void a_long_or_many_lined_value_is_shown_cut_on_one_line(void **state)
{
    (void)state;
    small_job_is_refused("steps=a\nb",
                         "steps: \"a\\nb\" does not fit; give a whole number from 1 to 10000");
    small_job_is_refused("steps=0123456789 123456789 123456789 123456789 123456789 12345678\xc3\xa9"
                         "0123456789",
                         "steps: \"0123456789 123456789 123456789 123456789 123456789 12345678... "
                         "does not fit; give a whole number from 1 to 10000");
}

static void a_sweep_above_2_63_is_refused(void **state)
{
    (void)state;
    char *path = write_job(SMALL_JOB);
    const char *sets[] = {"seed={\"count\":9223372036854775807}", "cfg=[1,2]"};
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_job_load(path, sets, 2, &err));
    assert_non_null(strstr(err.text, ": seed: makes the sweep larger than 9223372036854775807 "
                                     "samples; give fewer values"));
    unlink(path);
    free(path);
}

static void a_file_that_is_not_there_is_named(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_job_load("no-such-job.json", NULL, 0, &err));
    assert_string_equal(err.text, "no-such-job.json: cannot open: No such file or directory");
}

static void broken_json_is_placed(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    assert_null(try_job("{\n\"ksweep\": 1,\n}", NULL, &err));
    assert_non_null(strstr(err.text, ":3:1: "));
    err = KS_ERROR_NONE;
    assert_null(try_job("{\"ksweep\": 1, \"ksweep\": 1}", NULL, &err));
    assert_non_null(strstr(err.text, "\"ksweep\" stands twice"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_version_or_model_is_refused),
        cmocka_unit_test(wrong_conditionings_are_refused),
        cmocka_unit_test(wrong_areas_and_masks_are_refused),
        cmocka_unit_test(wrong_settings_of_the_advanced_node_are_refused),
        cmocka_unit_test(wrong_latents_are_refused),
        cmocka_unit_test(wrong_widget_values_are_refused),
        cmocka_unit_test(wrong_seeds_are_refused),
        cmocka_unit_test(wrong_settings_are_refused),
        cmocka_unit_test(unknown_keys_are_refused),
        cmocka_unit_test(what_this_version_lacks_gets_a_line_of_its_own),
        cmocka_unit_test(a_name_like_no_other_gets_the_list),
        cmocka_unit_test(required_keys_are_asked_for),
        cmocka_unit_test(a_job_must_be_an_object),
        cmocka_unit_test(a_long_or_many_lined_value_is_shown_cut_on_one_line),
        cmocka_unit_test(a_sweep_above_2_63_is_refused),
        cmocka_unit_test(a_file_that_is_not_there_is_named),
        cmocka_unit_test(broken_json_is_placed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
