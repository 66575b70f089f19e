/* Included before the engine when its stages are measured. */
void w2s_stage(int next);
#define W2S_STAGE(number) w2s_stage(number)
