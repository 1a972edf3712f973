# ruff: noqa
# fmt: off
# The reward functions of the reference tutorials, verbatim; with the import and the helpers that they call.
import re


def check_math_solution(prompt, completion):
    return "4" in completion


def test_code_solution(prompt, completion):
    return "print" in completion


def accuracy_reward(completions, ground_truth, **kwargs):
    matches = [re.search(r"\\boxed\{(.*?)\}", completion) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]


def format_reward(completions, **kwargs):
    pattern = r"^<think>.*?</think><answer>.*?</answer>$"
    completion_contents = [completion[0]["content"] for completion in completions]
    matches = [re.match(pattern, content) for content in completion_contents]
    return [1.0 if match else 0.0 for match in matches]


# 수학과 코딩 문제를 위한 다중 태스크 보상 함수
def math_reward_func(prompts, completions, task, **kwargs):
    rewards = []
    for prompt, completion, t in zip(prompts, completions, task):
        if t == "math":
            correct = check_math_solution(prompt, completion)
            reward = 1.0 if correct else -1.0
            rewards.append(reward)
        else:
            rewards.append(None)
    return rewards

def coding_reward_func(prompts, completions, task, **kwargs):
    rewards = []
    for prompt, completion, t in zip(prompts, completions, task):
        if t == "coding":
            works = test_code_solution(prompt, completion)
            reward = 1.0 if works else -1.0
            rewards.append(reward)
        else:
            rewards.append(None)
    return rewards


# 텍스트 길이 기반 보상 함수
def reward_text_length(completions, **kwargs):
    target_length = 100
    return [-abs(target_length - len(completion)) for completion in completions]
