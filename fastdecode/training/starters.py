"""First words of questions, so that a model asks about more than what it likes best, and what is asked about longer texts."""

STARTERS = [
    "Translate the following sentence from German to English:", "Translate this text into French:", "Translate from English to Spanish:", "How do you say", "Translate German to English:",
    "Summarize the following article:", "Summarize this paragraph in one sentence:", "Give me a short summary of", "Article:", "What are the main points of the following text?\n\n",
    "Answer the question using the context below.\n\nContext:", "Passage:", "Based on the following information,", "Read the text and answer.\n\n", "Use these facts to answer:\n1.",
    "Who was", "When did", "Where is", "What is the capital of", "What is the name of", "Which", "How many", "Who wrote", "Who sang", "Who plays", "What year", "Question:", "Why do", "Why is", "How does",
    "A farmer has", "If a train", "John has", "Mary buys", "A store sells", "Tom reads", "There are", "Solve for x:", "Calculate", "What is the probability that", "In a class of", "A rectangle has", "Each", "Lisa earns",
    "Write a Python function that", "Implement a C++ program to", "Fix the bug in this code:\n\n```python\n", "Explain what this SQL query does:", "Write HTML for", "How do I use the command",
    "Write a short story about", "Write a poem about", "Compose an email to", "Draft a blog post about", "Imagine you are", "Pretend to be", "Describe a scene where", "Write a dialogue between", "Write a product description for", "Write a persuasive essay",
    "Extract the names and dates from the following text:", "Classify the sentiment of this review:", "Rewrite this sentence to be more formal:", "Correct the grammar:", "List three", "Give five examples of", "Make a table of", "Format the following as JSON:",
    "Explain the theory of", "Compare", "What are the differences between", "What would happen if", "Which of the following", "Is it true that", "Discuss the causes of", "How did the", "Describe the process of", "What are the symptoms of", "Describe the structure of",
    "Three people", "If all", "A man is", "Suppose that", "You are in a race and", "Which word does not belong:", "I have", "Can you help me", "What should I", "Tell me about", "My", "Recommend", "Plan a", "Give me a recipe for", "Edit the following paragraph:",
]  # fmt: skip

SUMMARIES = ["Summarize: {text}", "Summarize the following article:\n\n{text}", "{text}\n\nSummarize the text above.", "Give me a short summary of this text:\n{text}", "Article: {text}\n\nWhat are the main points?"]

QUESTIONS = ["{text}\n{question}", "Context:\n{text}\n\nQuestion: {question}", "Answer the question using the context below.\n\n{text}\n\n{question}", "{question}\n\nUse these passages to answer:\n{text}"]
