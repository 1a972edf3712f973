# Short commands for a shell (bash and zsh): `source examples/aliases.sh`, in ~/.bashrc or ~/.zshrc for every session.
# nemo-help lists them. Settings follow a command as always: nemo-sft-1b trainer.max_epochs=1

nemo-sft()     { hone sft "$@"; }
nemo-sft-1b()  { hone sft policy.model_name=meta-llama/Llama-3.2-1B-Instruct "$@"; }
nemo-sft-8b()  { hone sft policy.model_name=meta-llama/Llama-3.1-8B-Instruct cluster.gpus_per_node=8 "$@"; }
nemo-dpo()     { hone dpo "$@"; }
nemo-dpo-1b()  { hone dpo policy.model_name=meta-llama/Llama-3.2-1B-Instruct "$@"; }
nemo-dpo-8b()  { hone dpo policy.model_name=meta-llama/Llama-3.1-8B-Instruct cluster.gpus_per_node=8 "$@"; }
nemo-rm()      { hone rm "$@"; }
nemo-rm-1b()   { hone rm policy.model_name=meta-llama/Llama-3.2-1B-Instruct "$@"; }
nemo-grpo()    { hone grpo "$@"; }
nemo-ppo()     { hone ppo "$@"; }
nemo-distill() { hone distill "$@"; }
nemo-eval()    { hone eval "$@"; }
nemo-convert() { hone convert "$@"; }
nemo-plan()    { hone plan "$@"; }
nemo-show()    { hone show "$@"; }
nemo-doctor()  { hone doctor "$@"; }

nemo-help() {
  cat <<'TEXT'
nemo-sft        supervised fine-tuning            지도 미세 조정 (SFT)
nemo-sft-1b     the same, Llama 3.2 1B            Llama 3.2 1B 모델, GPU 1개
nemo-sft-8b     the same, Llama 3.1 8B, 8 GPUs    Llama 3.1 8B 모델, GPU 8개
nemo-dpo        learning from comparisons         선호도 학습 (DPO)
nemo-dpo-1b     the same, Llama 3.2 1B            Llama 3.2 1B 모델
nemo-dpo-8b     the same, Llama 3.1 8B, 8 GPUs    Llama 3.1 8B 모델, GPU 8개
nemo-rm         reward models                     보상 모델 (RM)
nemo-rm-1b      the same, Llama 3.2 1B            Llama 3.2 1B 모델
nemo-grpo       reinforcement learning: GRPO      강화 학습 (GRPO)
nemo-ppo        reinforcement learning: PPO       강화 학습 (PPO)
nemo-distill    learning from a teacher           지식 증류
nemo-eval       score a model                     모델 평가
nemo-convert    a checkpoint as a Hugging Face folder   체크포인트를 Hugging Face 형식으로 변환
nemo-plan       check a run without starting it   실행 전 설정 확인
nemo-show       look at a run                     실행 결과 보기
nemo-doctor     check this machine                환경 점검
TEXT
}
